"""What serializer.json must hold: settings, bins and vocabularies that belong together."""

from data_prep.bins import fitted_bins
from data_prep.checked_json import MayLack, Only, is_a
from data_prep.given_users import KINDS
from data_prep.history import DAY
from data_prep.text_settings import LARGEST


def a_number_from_1_to_a_billion(content: object) -> bool:
    """Of whatever `check_fields` limits so."""
    return isinstance(content, int) and is_a(content, int) and 1 <= content <= LARGEST


def a_length_in_microseconds(content: object) -> bool:
    """Up to 100 years, as settings are."""
    return isinstance(content, int) and is_a(content, int) and 0 < content <= 36500 * DAY


# What serializer.json must hold; of a field its kind, and by it the setting that asks for it and what was learned.
FITTED = {
    "numeric": ("bins", fitted_bins),
    "categorical": ("top", {"list": bool, "values": [str]}),
    "text": ("words", {"words": [str]}),
}
SIZE = a_number_from_1_to_a_billion
SPEC = dict.fromkeys(("top", "bins", "words"), MayLack(SIZE)) | {"vocabulary": SIZE, "min_users": SIZE}
HOLDS = {
    "config": Only(
        style={"words", "sentences"},
        header=[str],
        fields={str: Only(SPEC)},
        max_events=SIZE,
        tail_bins=MayLack(SIZE),
        session_gap=MayLack(str),
        attributes=MayLack({str: Only(SPEC)}),
    ),
    "features": Only(
        target=str,
        types={str: str},
        kinds={str: {*FITTED}},
        event_types=[str],
        class_field=MayLack(str),
        classes=MayLack([str]),
        moments=MayLack(bool),
        session_gap=MayLack(a_length_in_microseconds),
    ),
    "fields": {str: {"kind": {*FITTED}}},
    "header": {str: fitted_bins},
    "attributes": MayLack({str: {"kind": {*FITTED}, "type": {*KINDS}}}),
}


def belonging(content: dict) -> dict:
    """What serializer.json must hold besides: each field was asked for, has been learned, and has a type."""
    fields, kinds = content["fields"], content["features"]["kinds"]
    class_fields = [content["features"].get("class_field") or ""] if content["features"].get("classes") else []
    known = {name: FITTED[fitted["kind"]] for name, fitted in fields.items()}
    attributes = {name: FITTED[fitted["kind"]] for name, fitted in content.get("attributes", {}).items()}
    asked = content["config"].get("attributes") or {}
    more: dict = {
        "attributes": dict.fromkeys(asked, dict) | {name: learned for name, (_, learned) in attributes.items()}
    }
    return {
        "config": {"fields": {name: {setting: int} for name, (setting, _) in known.items()}}
        | ({"attributes": {name: {setting: int} for name, (setting, _) in attributes.items()}} if attributes else {}),
        "features": {"types": dict.fromkeys({*fields, *kinds, *class_fields} - {"event_type"}, str)},
        "fields": dict.fromkeys(content["config"]["fields"], dict)
        | {name: learned for name, (_, learned) in known.items()},
    } | (more if asked or attributes else {})
