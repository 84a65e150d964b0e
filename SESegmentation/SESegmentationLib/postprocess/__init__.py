"""After the networks: clean-up of label maps, and what structures measure."""
