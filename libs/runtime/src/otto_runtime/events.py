"""The words of every event that any service logs, in English and Korean, by the event's name.

One place for all services, so that a test can hold the code against it: every name logged anywhere stands here with both texts, every
`{field}` of a text is among the fields of the event, and no entry is left that nobody logs.
"""

from typing import NamedTuple


class Words(NamedTuple):
    """The two texts of an event; `{name}` is replaced by the event's field."""

    en: str
    ko: str


RUNTIME = {
    "runtime.serving": Words("Serving gRPC on {address}", "{address}에서 gRPC 제공 중"),
    "runtime.ready": Words("{service} is ready", "{service} 준비 완료"),
    "runtime.stopping": Words("Stopping: {reason}", "중지하는 중: {reason}"),
    "runtime.streams_ended": Words("Ended {count} open streams with OK", "열린 스트림 {count}개를 OK로 종료함"),
    "runtime.stopped": Words("Stopped after {seconds} s", "{seconds}초 만에 중지됨"),
    "runtime.call_failed": Words("{method} failed, told the client id {error_id}", "{method} 실패, 클라이언트에 ID {error_id} 전달"),
    "runtime.metrics_serving": Words("Metrics on {address}", "{address}에서 메트릭 제공 중"),
    "runtime.setting_unknown": Words(
        "{variable} is no setting of this service; misspelt?", "{variable}은(는) 이 서비스의 설정이 아님, 오타인지 확인"
    ),
    "runtime.handlers_cancelled": Words(
        "{count} calls did not end within the grace and were cancelled", "호출 {count}개가 유예 시간 안에 끝나지 않아 취소됨"
    ),
}

SCALER: dict[str, Words] = {}

EXECUTOR: dict[str, Words] = {}

RELAY: dict[str, Words] = {}

STANDALONE: dict[str, Words] = {}

CATALOG: dict[str, Words] = {**RUNTIME, **SCALER, **EXECUTOR, **RELAY, **STANDALONE}
