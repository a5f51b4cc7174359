"""How fast, and at what cost, compared with bare receivers and with other servers."""
