"""People in photographs and clips: published nets for faces, bodies, hands and masks (MediaPipe), run by torch alone."""
