"""MITRE ATT&CK's tactics and techniques of one named version, shipped with SIB; see NOTICE.txt.

``matrix`` reads them; ``distill`` makes the shipped file of one of MITRE's STIX bundles.
"""
