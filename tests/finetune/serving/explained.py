"""Users of the tiny log whose scores are explained."""

from datetime import datetime, timedelta

CUTOFF = datetime(2024, 4, 1)


LABELS = {
    "binary": {"kind": "absent"},
    "value": {"kind": "sum", "field": "amount"},
    "tiers": {"kind": "sum", "field": "amount", "tiers": [0, 30]},
    "propensity": {"kind": "which", "field": "shop", "top": 2},
}


def event(user, days_before, kind, amount=None, shop="north"):
    time = CUTOFF - timedelta(days=days_before)
    return {"user_id": user, "event_time": time, "event_type": kind, "amount": amount, "shop": shop}
