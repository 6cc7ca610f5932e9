"""From the inbox to plain bytes: which deliveries there are, whether they are complete, opening and unpacking them.

What does not belong here: what the bytes mean (``reader``), what the ledger knows of a delivery (``ledger``).
"""
