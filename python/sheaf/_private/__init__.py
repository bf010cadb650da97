"""The few private names of Ray that popular programs use. Nothing of Sheaf's own depends on
them.
"""
