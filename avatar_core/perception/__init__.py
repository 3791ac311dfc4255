"""What reads pictures: published nets that find people (`holistic`), mattes, tracks; the metrics' own instruments, kept apart."""
