from __future__ import annotations


def legacy():
    return []
