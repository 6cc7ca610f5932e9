"""Reads the bytes of a delivery into batches of text: encoding, dialect, header, records, damaged records.

What does not belong here: finding and unpacking files (``source``), types and constraints of values (``validation``).
"""
