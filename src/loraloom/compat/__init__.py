"""Run the commands of other trainers: their flags, translated to our settings."""
