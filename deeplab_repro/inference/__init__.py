"""From pictures to label maps."""
