from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ScoreRequest(_message.Message):
    __slots__ = ("user", "vocabulary", "histories", "candidates", "top_k", "dense", "compact", "timeout_ms", "positions")
    USER_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    HISTORIES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    COMPACT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    user: str
    vocabulary: str
    histories: Rows
    candidates: Array
    top_k: int
    dense: bool
    compact: bool
    timeout_ms: int
    positions: bytes
    def __init__(self, user: _Optional[str] = ..., vocabulary: _Optional[str] = ..., histories: _Optional[_Union[Rows, _Mapping]] = ..., candidates: _Optional[_Union[Array, _Mapping]] = ..., top_k: _Optional[int] = ..., dense: _Optional[bool] = ..., compact: _Optional[bool] = ..., timeout_ms: _Optional[int] = ..., positions: _Optional[bytes] = ...) -> None: ...

class ScoreAnswer(_message.Message):
    __slots__ = ("status", "reason", "generation", "order", "weights", "logprobs", "ids")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    IDS_FIELD_NUMBER: _ClassVar[int]
    status: str
    reason: str
    generation: int
    order: int
    weights: bytes
    logprobs: Array
    ids: Array
    def __init__(self, status: _Optional[str] = ..., reason: _Optional[str] = ..., generation: _Optional[int] = ..., order: _Optional[int] = ..., weights: _Optional[bytes] = ..., logprobs: _Optional[_Union[Array, _Mapping]] = ..., ids: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class StreamAnswer(_message.Message):
    __slots__ = ("answer", "problem")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    answer: ScoreAnswer
    problem: Problem
    def __init__(self, answer: _Optional[_Union[ScoreAnswer, _Mapping]] = ..., problem: _Optional[_Union[Problem, _Mapping]] = ...) -> None: ...

class Problem(_message.Message):
    __slots__ = ("status", "code", "message", "request_id")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    status: int
    code: str
    message: str
    request_id: str
    def __init__(self, status: _Optional[int] = ..., code: _Optional[str] = ..., message: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class Array(_message.Message):
    __slots__ = ("n", "k", "data")
    N_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    n: int
    k: int
    data: bytes
    def __init__(self, n: _Optional[int] = ..., k: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Rows(_message.Message):
    __slots__ = ("lengths", "data")
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, lengths: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class GetUserRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class User(_message.Message):
    __slots__ = ("order", "ngrams", "bytes", "generation", "messages", "tokens", "vocabulary", "vocabulary_size", "created", "weight_by_state", "pending")
    ORDER_FIELD_NUMBER: _ClassVar[int]
    NGRAMS_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_SIZE_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_BY_STATE_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    order: int
    ngrams: _containers.RepeatedScalarFieldContainer[int]
    bytes: int
    generation: int
    messages: int
    tokens: int
    vocabulary: str
    vocabulary_size: int
    created: float
    weight_by_state: bool
    pending: int
    def __init__(self, order: _Optional[int] = ..., ngrams: _Optional[_Iterable[int]] = ..., bytes: _Optional[int] = ..., generation: _Optional[int] = ..., messages: _Optional[int] = ..., tokens: _Optional[int] = ..., vocabulary: _Optional[str] = ..., vocabulary_size: _Optional[int] = ..., created: _Optional[float] = ..., weight_by_state: _Optional[bool] = ..., pending: _Optional[int] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("user", "unless", "unless_tag")
    USER_FIELD_NUMBER: _ClassVar[int]
    UNLESS_FIELD_NUMBER: _ClassVar[int]
    UNLESS_TAG_FIELD_NUMBER: _ClassVar[int]
    user: str
    unless: int
    unless_tag: str
    def __init__(self, user: _Optional[str] = ..., unless: _Optional[int] = ..., unless_tag: _Optional[str] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("generation", "unchanged", "blob", "vocabulary", "tag")
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    generation: int
    unchanged: bool
    blob: bytes
    vocabulary: str
    tag: str
    def __init__(self, generation: _Optional[int] = ..., unchanged: _Optional[bool] = ..., blob: _Optional[bytes] = ..., vocabulary: _Optional[str] = ..., tag: _Optional[str] = ...) -> None: ...

class AddMessageRequest(_message.Message):
    __slots__ = ("user", "message_id", "date", "author", "to", "cc", "subject", "body", "raw")
    USER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_ID_FIELD_NUMBER: _ClassVar[int]
    DATE_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    TO_FIELD_NUMBER: _ClassVar[int]
    CC_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    user: str
    message_id: str
    date: str
    author: _containers.RepeatedScalarFieldContainer[str]
    to: _containers.RepeatedScalarFieldContainer[str]
    cc: _containers.RepeatedScalarFieldContainer[str]
    subject: str
    body: str
    raw: bytes
    def __init__(self, user: _Optional[str] = ..., message_id: _Optional[str] = ..., date: _Optional[str] = ..., author: _Optional[_Iterable[str]] = ..., to: _Optional[_Iterable[str]] = ..., cc: _Optional[_Iterable[str]] = ..., subject: _Optional[str] = ..., body: _Optional[str] = ..., raw: _Optional[bytes] = ...) -> None: ...

class Learned(_message.Message):
    __slots__ = ("status", "reason")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    status: str
    reason: str
    def __init__(self, status: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ForgetRequest(_message.Message):
    __slots__ = ("user",)
    USER_FIELD_NUMBER: _ClassVar[int]
    user: str
    def __init__(self, user: _Optional[str] = ...) -> None: ...

class Forgotten(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
