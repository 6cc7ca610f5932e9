"""Finds deliveries in the inbox, checks whether they are complete, opens and unpacks them.

What does not belong here: what the bytes mean (``reader``), what the ledger knows of a delivery (``ledger``).
"""
