"""`sib-agent drill`: harmless acts that this host's Falco must see and the server must get."""
