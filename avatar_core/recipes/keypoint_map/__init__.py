"""The map from MediaPipe's points to the template's keypoints, learnt from renders of procedural people with known truth."""
