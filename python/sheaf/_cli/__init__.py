"""The ``sheaf`` command."""
