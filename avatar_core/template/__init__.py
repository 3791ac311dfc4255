"""The template body: mesh, rig, face actions, shape space, landmarks and the particle layout."""
