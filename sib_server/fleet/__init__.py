"""The fleet: which hosts there are, how they enroll and renew, and how they are."""
