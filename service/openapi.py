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

SECURITY_SCHEMES: Final = {
    "credential": {
        "type": "http",
        "scheme": "bearer",
        "description": "an API key or a JSON Web Token; needed where the operator asks for them",
    }
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"credential": []}, {}]

_IDS: Final = {
    "type": "array",
    "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}},
}
_ABSENT: Final = {"type": "null"}
_NO: Final = {"enum": [False, None]}
_REQUEST_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["user", "vocabulary", "histories"],
    "additionalProperties": False,
    "properties": {
        "user": {
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "description": "1 to 256 bytes",
        },
        "vocabulary": {"type": "string", "description": "fingerprint of the ids' vocabulary"},
        "histories": {
            **_IDS,
            "description": "token ids of each hypothesis, oldest first; "
            "the last order − 1 are enough",
        },
        "candidates": {
            **_IDS,
            "type": ["array", "null"],
            "description": "as many ids for each history",
        },
        "top_k": {
            "type": ["integer", "null"],
            "minimum": 1,
            "description": "the likeliest ids instead",
        },
        "dense": {
            "type": ["boolean", "null"],
            "description": "all ids of the vocabulary instead",
        },
        "compact": {
            "type": ["boolean", "null"],
            "description": "with dense: only the ids that the user ever wrote, given in `ids`; all "
            "others have probability 0",
        },
        "positions": {
            "type": ["array", "null"],
            "items": {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
            "description": "for each history, how many tokens of the text came before the one to "
            "score: λ is larger early in a text, and without positions right on average",
        },
    },
    "oneOf": [
        {
            "required": ["candidates"],
            "properties": {
                "candidates": {"type": "array"},
                "top_k": _ABSENT,
                "dense": _NO,
                "compact": _NO,
            },
        },
        {
            "required": ["top_k"],
            "properties": {
                "top_k": {"type": "integer"},
                "candidates": _ABSENT,
                "dense": _NO,
                "compact": _NO,
            },
        },
        {
            "required": ["dense"],
            "properties": {"dense": {"const": True}, "candidates": _ABSENT, "top_k": _ABSENT},
        },
    ],
}
_COUNT: Final = {"type": "integer", "minimum": 0}
_ID_LIST: Final = {"type": "array", "items": _COUNT}
_ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["status", "reason", "generation", "order", "weights", "logprobs"],
    "additionalProperties": False,
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
        "generation": _COUNT,
        "order": _COUNT,
        "weights": {
            "type": "array",
            "items": {"type": "number", "minimum": 0, "maximum": 1},
        },
        "logprobs": {
            "type": "array",
            "items": {"type": "array", "items": {"type": ["number", "null"]}},
            "description": "float32[n, k], natural log; null is −∞: the user never wrote it",
        },
        "ids": {
            "anyOf": [_ID_LIST, {"type": "array", "items": _ID_LIST}],
            "description": "for top_k a list for each history; for compact one list",
        },
    },
}
_ARRAYS: Final = """
In msgpack an array is the map `{"dtype": "<f4" | "<u4", "shape": [n, k], "data": bin}`, and rows of
different lengths are `{"dtype": "<u4", "lengths": [l0, l1, …], "data": bin}`: little-endian, row
after row, without gaps. Requests may have lists instead. −∞ is the IEEE value
in msgpack and `null` in JSON. The answer has the format that `Accept` names, else the request's.
"""
_PROBLEM_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {
        "error": {"type": "string", "pattern": "^[a-z_]+$"},
        "message": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
_REQUEST_ID: Final = {
    "X-Request-Id": {
        "description": "what the operator finds the request by in the log",
        "schema": {"type": "string"},
    }
}
_CHALLENGE: Final = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_RETRY_AFTER: Final = {
    "Retry-After": {"description": "seconds, where `overloaded`", "schema": {"type": "integer"}}
}


def _problem(description: str, headers: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "headers": {**_REQUEST_ID, **(headers or {})},
        "content": {"application/json": {"schema": _PROBLEM_SCHEMA}},
    }


_USER_PARAMETER: Final = {
    "name": "user",
    "in": "path",
    "required": True,
    "description": "the user's id, 1 to 256 bytes, percent-encoded as one path segment (a slash as "
    "%2F)",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256},
    "example": _USER,
}
_TIMEOUT_PARAMETER: Final = {
    "name": "Perslm-Timeout-Ms",
    "in": "header",
    "description": "how many milliseconds the caller waits: what could only be late is not "
    "computed. What is no such number is ignored",
    "schema": {"type": "string"},
    "example": "250",
}
_CREDENTIAL_PROBLEMS: Final = {
    "401": _problem("`unauthenticated`: no valid credential", _CHALLENGE),
    "403": _problem("`forbidden`: the credential does not allow this"),
}
_INTERNAL: Final = {"500": _problem("`internal`: report `request_id` to who runs the service")}
_LATE: Final = {"504": _problem("`deadline_exceeded`: the caller said that it does not wait")}
_USER_PROBLEMS: Final = {
    "404": _problem("`unknown_user`: nothing is published"),
    "422": _problem("`invalid_user`: not a user id"),
    **_CREDENTIAL_PROBLEMS,
    **_INTERNAL,
    "503": _problem("`store_unavailable`, `bad_blob`, `overloaded`", _RETRY_AFTER),
    **_LATE,
}
_ALIVE: Final = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"const": "ok"}},
        }
    }
}

SCORE: Final[dict[str, Any]] = {
    "summary": "Score the next token of several hypotheses",
    "security": _SECURITY,
    "description": _ARRAYS,
    "parameters": [
        _TIMEOUT_PARAMETER,
        {
            "name": "Accept",
            "in": "header",
            "description": "`application/json` or `application/msgpack`",
            "schema": {"type": "string"},
            "example": "application/json",
        },
    ],
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
                    "positions": {
                        "summary": "candidates, at a place in the text",
                        "value": {
                            "user": _USER,
                            "vocabulary": _FINGERPRINT,
                            "histories": [[0, 12, 7]],
                            "candidates": [[5, 8, 13]],
                            "positions": [42],
                        },
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
        "400": _problem(
            "`malformed_body`: the body cannot be read; `disconnected`: it ended early"
        ),
        **_CREDENTIAL_PROBLEMS,
        "413": _problem("`body_too_large`"),
        "415": _problem("`unsupported_media_type`: neither JSON nor msgpack"),
        "422": _problem(
            "`invalid_request`, `invalid_user`, `invalid_ids`, `too_many_histories`, "
            "`answer_too_large`"
        ),
        **_INTERNAL,
        "503": _problem("`overloaded`: ask again when Retry-After says", _RETRY_AFTER),
        **_LATE,
    },
}
MODEL: Final[dict[str, Any]] = {
    "summary": "Fetch a user's model, to score in process",
    "security": _SECURITY,
    "parameters": [
        _USER_PARAMETER,
        _TIMEOUT_PARAMETER,
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
                **_REQUEST_ID,
                "ETag": {
                    "description": "changes with the model: the generation, and what was learned "
                    "or blocked since",
                    "schema": {"type": "string"},
                },
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
        "304": {"description": "The model at hand is the latest", "headers": _REQUEST_ID},
        **_USER_PROBLEMS,
    },
}
_MODEL_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": [
        "order",
        "ngrams",
        "bytes",
        "generation",
        "messages",
        "tokens",
        "vocabulary",
        "vocabulary_size",
        "created",
        "weight_by_state",
        "pending",
    ],
    "properties": {
        "order": {"type": "integer", "minimum": 1},
        "ngrams": {**_ID_LIST, "description": "their number, by order"},
        "bytes": {**_COUNT, "description": "of the blob"},
        "generation": {"type": "integer", "minimum": 1},
        "messages": _COUNT,
        "tokens": _COUNT,
        "vocabulary": {"type": "string", "description": "its fingerprint"},
        "vocabulary_size": _COUNT,
        "created": {"type": "number", "description": "POSIX time"},
        "weight_by_state": {
            "type": "boolean",
            "description": "whether λ depends on the state, and so on `positions`; else it is one "
            "for all",
        },
        "pending": {**_COUNT, "description": "messages that were learned since the last build"},
    },
}
USER: Final[dict[str, Any]] = {
    "summary": "Metadata of a user's model",
    "security": _SECURITY,
    "parameters": [_USER_PARAMETER, _TIMEOUT_PARAMETER],
    "responses": {
        "200": {
            "description": "What is known of the published model",
            "content": {
                "application/json": {
                    "schema": _MODEL_SCHEMA,
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
                        "weight_by_state": True,
                        "pending": 2,
                    },
                }
            },
        },
        **_USER_PROBLEMS,
    },
}
_ADDRESSES: Final[dict[str, Any]] = {
    "anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": {"type": "string"}}],
    "description": "as in a mail header, or a list of such",
}
LEARN: Final[dict[str, Any]] = {
    "summary": "Learn a message that the user just sent",
    "description": "It is cleaned as a build cleans, and counts at once, on every replica within a "
    "second; the next build counts it with all others. Sending it again changes nothing. "
    "With the scope `write`.",
    "security": _SECURITY,
    "parameters": [_USER_PARAMETER, _TIMEOUT_PARAMETER],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "a line of a JSON lines source; fields may be null, others are "
                    "ignored",
                    "anyOf": [{"required": ["body"]}, {"required": ["raw"]}],
                    "properties": {
                        "message_id": {
                            "type": ["string", "null"],
                            "description": "by which the message is known again; without one it "
                            "is by its content",
                        },
                        "date": {"type": ["string", "null"], "description": "when it was sent"},
                        "from": _ADDRESSES,
                        "to": _ADDRESSES,
                        "cc": _ADDRESSES,
                        "subject": {"type": ["string", "null"]},
                        "body": {"type": ["string", "null"], "description": "its text"},
                        "raw": {"type": ["string", "null"], "description": "or the whole message"},
                    },
                },
                "example": {
                    "message_id": "<1@example.com>",
                    "date": "2026-01-31T09:30:00Z",
                    "from": "Engineer <engineer@example.com>",
                    "to": "desk@example.com",
                    "subject": "Power",
                    "body": "The power desk needs the new figures by noon.",
                },
            }
        },
    },
    "responses": {
        "200": {
            "description": "What became of it",
            "headers": _REQUEST_ID,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["status", "reason"],
                        "additionalProperties": False,
                        "properties": {
                            "status": {
                                "enum": ["learned", "known", "nothing", "opted_out"],
                                "description": "`known`: it was there; `nothing`: there is nothing "
                                "to learn in it, see `reason`; `opted_out`: the user wants no "
                                "model, and nothing was kept",
                            },
                            "reason": {"type": "string", "pattern": "^[a-z_]+$"},
                        },
                    },
                    "example": {"status": "learned", "reason": "ok"},
                }
            },
        },
        "400": _problem("`malformed_body`: no JSON object; `disconnected`: it ended early"),
        **_CREDENTIAL_PROBLEMS,
        "404": _problem("`not_found`: a slash in a user id is %2F"),
        "409": _problem(
            "`no_vocabulary`: nothing was built yet; `too_many_pending`: too many messages wait "
            "for a build"
        ),
        "413": _problem("`body_too_large`"),
        "415": _problem("`unsupported_media_type`: not JSON"),
        "422": _problem("`invalid_user`, `invalid_message`"),
        **_INTERNAL,
        "501": _problem("`learning_unavailable`: what cleans messages is not installed"),
        "503": _problem("`store_unavailable`, `bad_blob`, `overloaded`", _RETRY_AFTER),
        **_LATE,
    },
}
FORGET: Final[dict[str, Any]] = {
    "summary": "Delete every generation of a user's model",
    "security": _SECURITY,
    "parameters": [_USER_PARAMETER, _TIMEOUT_PARAMETER],
    "responses": {"204": {"description": "Deleted", "headers": _REQUEST_ID}, **_USER_PROBLEMS},
}
HEALTHZ: Final[dict[str, Any]] = {
    "summary": "Is the process alive?",
    "responses": {"200": {"description": "It is", "content": _ALIVE}},
}
READYZ: Final[dict[str, Any]] = {
    "summary": "Can models be loaded?",
    "responses": {
        "200": {"description": "The store answers", "content": _ALIVE},
        "503": {
            "description": "`store_unavailable`: scoring goes on, without models that are not in "
            "memory",
            "headers": _REQUEST_ID,
            "content": {
                "application/json": {
                    "schema": {
                        **_PROBLEM_SCHEMA,
                        "required": ["error", "message", "status", "reason"],
                        "properties": {
                            **_PROBLEM_SCHEMA["properties"],
                            "status": {"const": "not ready"},
                            "reason": {"type": "string", "description": "the same as `error`"},
                        },
                    }
                }
            },
        },
    },
}
METRICS: Final[dict[str, Any]] = {
    "summary": "Figures for Prometheus",
    "security": _SECURITY,
    "description": "In its text format. Where credentials are asked for: with the scope `admin`.",
    "responses": {
        "200": {
            "description": "All figures since the process began",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **_CREDENTIAL_PROBLEMS,
    },
}
