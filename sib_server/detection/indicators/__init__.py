"""Threat intelligence: feeds become indicators; indicators become lists, rules and enrichment.

``formats`` read what a feed says, ``exclusions`` say what can never be an indicator, ``admission``
decides whether a download may replace the last good one, ``store`` keeps the result in a file that
is there whole or not at all, ``index`` looks values up in it, ``aggregate`` and ``rules`` ship
it to hosts, ``enrichment`` and ``hunt`` hold events against it. Only ``fetch``, ``store``,
``state`` and ``update`` touch the network or the disk.
"""
