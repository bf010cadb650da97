"""Names of Ray's autoscaler that programs import. An allocation's nodes are its scheduler's matter:
nothing here starts or ends any.
"""
