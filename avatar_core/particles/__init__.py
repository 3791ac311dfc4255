"""The data model: the particle layout that all identities share, an identity's canonical avatar, and its deformation."""
