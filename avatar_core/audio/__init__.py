"""Audio: what the generator hears at 100 Hz (a phoneme encoder, or log-mel), takes of a recording, and log-mel for the rest."""
