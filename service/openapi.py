"""What ``/docs`` and ``/openapi.json`` say of each route: data only, no behaviour."""

from __future__ import annotations

from typing import Any, Final

DESCRIPTION: Final = """
Scores continuations with a user's personal language model, for a beam search to mix into a global
one: p = (1 − λ)·p_global + λ·p_personal, with λ = `weights` and natural logarithms throughout.

`POST /v1/score` always answers 200 to a well-formed request. Where no model can be used, all
weights are 0 and `status` and `reason` say why. Everything else that goes wrong is a JSON object
`{"error": code, "message": remedy}`; codes are stable, messages are for people.

Where the operator asks for credentials, send an API key or a JSON Web Token as
`Authorization: Bearer …`. Without a valid one the answer is 401 `unauthenticated`, and 403
`forbidden` for what it does not allow. Its tenant is whose users are meant. docs/operations.md has
the scopes.
"""

_USER: Final = "engineer@example.com"
_FINGERPRINT: Final = "3f1c0b5a9d8e7766554433221100ffee"

_IDS: Final = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
}
_REQUEST_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["user", "vocabulary", "histories"],
    "additionalProperties": False,
    "properties": {
        "user": {"type": "string", "description": "1 to 256 bytes"},
        "vocabulary": {"type": "string", "description": "fingerprint of the ids' vocabulary"},
        "histories": {
            **_IDS,
            "description": "token ids of each hypothesis, oldest first; "
            "the last order − 1 are enough",
        },
        "candidates": {**_IDS, "description": "as many ids for each history"},
        "top_k": {"type": "integer", "minimum": 1, "description": "the likeliest ids instead"},
        "dense": {"type": "boolean", "description": "all ids of the vocabulary instead"},
        "compact": {
            "type": "boolean",
            "description": "with dense: only the ids that the user ever wrote, given in `ids`; all "
            "others have probability 0",
        },
    },
}
_ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["status", "reason", "generation", "order", "weights", "logprobs"],
    "properties": {
        "status": {"enum": ["ok", "no_model", "vocabulary_mismatch", "degraded"]},
        "reason": {
            "enum": [
                "ok",
                "stale",
                "unknown_user",
                "vocabulary_mismatch",
                "store_unavailable",
                "bad_blob",
                "loading",
            ]
        },
        "generation": {"type": "integer"},
        "order": {"type": "integer"},
        "weights": {"type": "array", "items": {"type": "number"}},
        "logprobs": {
            "type": "array",
            "items": {"type": "array", "items": {"type": ["number", "null"]}},
            "description": "float32[n, k], natural log; null is −∞: the user never wrote it",
        },
        "ids": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "for top_k a list for each history; for compact one list",
        },
    },
}
_ARRAYS: Final = """
In msgpack an array is the map `{"dtype": "<f4" | "<u4", "shape": [n, k], "data": bin}`, and rows of
different lengths are `{"dtype": "<u4", "lengths": [l0, l1, …], "data": bin}`: little-endian, row
after row, without gaps. Requests may have lists of lists of integers instead. −∞ is the IEEE value
in msgpack and `null` in JSON. The answer has the format that `Accept` names, else the request's.
"""
_PROBLEM: Final = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error", "message"],
            "properties": {"error": {"type": "string"}, "message": {"type": "string"}},
        }
    }
}


def _problem(description: str) -> dict[str, Any]:
    return {"description": description, "content": _PROBLEM}


_USER_PARAMETER: Final = {
    "name": "user",
    "in": "path",
    "required": True,
    "description": "the user's id, percent-encoded as one path segment (a slash as %2F)",
    "schema": {"type": "string"},
    "example": _USER,
}
_CREDENTIAL_PROBLEMS: Final = {
    "401": _problem("`unauthenticated`: no valid credential"),
    "403": _problem("`forbidden`: the credential does not allow this"),
}
_USER_PROBLEMS: Final = {
    "404": _problem("`unknown_user`: nothing is published"),
    "422": _problem("`invalid_user`: not a user id"),
    **_CREDENTIAL_PROBLEMS,
    "503": _problem("`store_unavailable`, `bad_blob`, `overloaded` (with Retry-After)"),
}

SCORE: Final[dict[str, Any]] = {
    "summary": "Score the next token of several hypotheses",
    "description": _ARRAYS,
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": _REQUEST_SCHEMA,
                "examples": {
                    "candidates": {
                        "value": {
                            "user": _USER,
                            "vocabulary": _FINGERPRINT,
                            "histories": [[0, 12, 7], [0, 12, 9]],
                            "candidates": [[5, 8, 13], [5, 8, 13]],
                        }
                    },
                    "top_k": {
                        "value": {
                            "user": _USER,
                            "vocabulary": _FINGERPRINT,
                            "histories": [[0, 12, 7]],
                            "top_k": 8,
                        }
                    },
                    "dense": {
                        "value": {
                            "user": _USER,
                            "vocabulary": _FINGERPRINT,
                            "histories": [[0, 12, 7]],
                            "dense": True,
                            "compact": True,
                        }
                    },
                },
            },
            "application/msgpack": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "responses": {
        "200": {
            "description": "Scores, or zeros and why",
            "content": {
                "application/json": {
                    "schema": _ANSWER_SCHEMA,
                    "example": {
                        "status": "ok",
                        "reason": "ok",
                        "generation": 4,
                        "order": 3,
                        "weights": [0.30000001192092896, 0.30000001192092896],
                        "logprobs": [[-2.5, None, -0.75], [-3.25, None, -1.5]],
                    },
                },
                "application/msgpack": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "400": _problem("`malformed_body`: the body cannot be read"),
        **_CREDENTIAL_PROBLEMS,
        "413": _problem("`body_too_large`"),
        "415": _problem("`unsupported_media_type`: neither JSON nor msgpack"),
        "422": _problem(
            "`invalid_request`, `invalid_user`, `invalid_ids`, `too_many_histories`, "
            "`answer_too_large`"
        ),
        "503": _problem("`overloaded`: ask again when Retry-After says"),
    },
}
MODEL: Final[dict[str, Any]] = {
    "summary": "Fetch a user's model, to score in process",
    "parameters": [
        _USER_PARAMETER,
        {
            "name": "If-None-Match",
            "in": "header",
            "description": "the ETag of the model at hand",
            "schema": {"type": "string"},
            "example": '"4"',
        },
    ],
    "responses": {
        "200": {
            "description": "The blob, which FORMAT.md specifies",
            "headers": {
                "ETag": {"description": "the generation, quoted", "schema": {"type": "string"}},
                "Perslm-Generation": {"schema": {"type": "integer"}},
                "Perslm-Vocabulary": {
                    "description": "fingerprint of the model's vocabulary",
                    "schema": {"type": "string"},
                },
            },
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}}
            },
        },
        "304": {"description": "The model at hand is the latest"},
        **_USER_PROBLEMS,
    },
}
USER: Final[dict[str, Any]] = {
    "summary": "Metadata of a user's model",
    "parameters": [_USER_PARAMETER],
    "responses": {
        "200": {
            "description": "What is known of the published model",
            "content": {
                "application/json": {
                    "schema": {"type": "object"},
                    "example": {
                        "order": 3,
                        "ngrams": [2189, 9120, 13044],
                        "bytes": 41210,
                        "generation": 4,
                        "messages": 412,
                        "tokens": 27110,
                        "vocabulary": _FINGERPRINT,
                        "vocabulary_size": 50000,
                        "created": 1735689600.0,
                    },
                }
            },
        },
        **_USER_PROBLEMS,
    },
}
FORGET: Final[dict[str, Any]] = {
    "summary": "Delete every generation of a user's model",
    "parameters": [_USER_PARAMETER],
    "responses": {"204": {"description": "Deleted"}, **_USER_PROBLEMS},
}
HEALTHZ: Final[dict[str, Any]] = {
    "summary": "Is the process alive?",
    "responses": {"200": {"description": "It is"}},
}
READYZ: Final[dict[str, Any]] = {
    "summary": "Can models be loaded?",
    "responses": {
        "200": {"description": "The store answers"},
        "503": _problem(
            "`store_unavailable`: scoring goes on, without models that are not cached. `status` is "
            "`not ready`, and `reason` the code"
        ),
    },
}
METRICS: Final[dict[str, Any]] = {
    "summary": "Figures for Prometheus",
    "description": "In its text format. Where credentials are asked for: with the scope `admin`.",
    "responses": {
        "200": {
            "description": "All figures since the process began",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **_CREDENTIAL_PROBLEMS,
    },
}
