"""Texts of plans: parse them, print them, check them, understand plain words."""
