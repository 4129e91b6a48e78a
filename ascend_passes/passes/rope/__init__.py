"""Rotations: one lookup of cosines and sines for all layers."""
