"""Rows and maps in files."""
