"""Everything that touches the disk: atomic writes, images, video, audio, checkpoints, trajectory stores, catalogues."""
