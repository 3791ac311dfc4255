"""The data model: the shared layout of particles, an identity's canonical avatar and its backdrop, its deformation, its splats."""
