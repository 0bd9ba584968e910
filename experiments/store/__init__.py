"""What runs leave behind: records, files that are whole or absent, the mirror in W&B."""
