"""Texts of plans: parse, print, check, understand plain words."""
