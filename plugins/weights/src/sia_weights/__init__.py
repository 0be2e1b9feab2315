"""Offers the lever `weights`."""
