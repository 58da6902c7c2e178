from __future__ import annotations


def extras():
    return []
