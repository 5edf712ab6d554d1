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
    "runtime.stopping": Words("Stopping", "중지하는 중"),
    "runtime.part_ended": Words("{service} has failed, so everything stops", "{service} 실패, 전체를 중지함"),
    "runtime.streams_ended": Words("Ended {count} open streams with OK", "열린 스트림 {count}개를 OK로 종료함"),
    "runtime.stopped": Words("Stopped after {seconds} s", "{seconds}초 만에 중지됨"),
    "runtime.failed": Words("{service} ended because of an unexpected error", "{service} 예상치 못한 오류로 종료됨"),
    "runtime.call_failed": Words(
        "{method} failed; the client was told the id {error_id}", "{method} 실패, 클라이언트에 ID {error_id} 전달"
    ),
    "runtime.call_timed_out": Words("{method} took longer than {seconds} s and was given up", "{method} {seconds}초 초과로 중단됨"),
    "runtime.metrics_serving": Words("Metrics on {address}", "{address}에서 메트릭 제공 중"),
    "runtime.telemetry_lost": Words(
        "{endpoint} did not take the last traces and metrics in time; they are lost", "{endpoint} 응답 없음, 마지막 트레이스와 메트릭 유실"
    ),
    "runtime.export_failed": Words("{endpoint} takes no traces and metrics", "{endpoint} 트레이스와 메트릭 전송 실패"),
    "runtime.export_works_again": Words("{endpoint} takes traces and metrics again", "{endpoint} 트레이스와 메트릭 전송 재개"),
    "runtime.metrics_unread": Words(
        "The metrics can't be read and were not exported, trying again: {why}", "메트릭을 읽을 수 없어 내보내지 못함, 다시 시도함: {why}"
    ),
    "runtime.setting_unknown": Words(
        "{variable} is no setting of this service; misspelt?", "{variable}은(는) 이 서비스의 설정이 아님, 오타인지 확인"
    ),
    "runtime.handlers_cancelled": Words(
        "{count} calls did not end within the grace and were cancelled", "호출 {count}개가 유예 시간 안에 끝나지 않아 취소됨"
    ),
    "runtime.replica.follows": Words("{holder} acts; calls are handed on to it", "{holder}에서 작업을 수행하며 호출을 그쪽으로 넘김"),
    "runtime.replica.acts": Words("This replica acts now, at {address}", "이제 이 인스턴스({address})에서 작업을 수행함"),
    "runtime.replica.lost": Words(
        "The lease was lost to {holder}; nothing is done here any more", "리스를 {holder}에 넘겨 더 이상 작업하지 않음"
    ),
}

SCALER: dict[str, Words] = {
    "scaler.fleet.known": Words("{count} workers found", "워커 {count}개 확인"),
    "scaler.backend.lost": Words("The backend was lost, observing it again: {why}", "백엔드 연결이 끊겨 다시 관찰함: {why}"),
    "scaler.worker.created": Words("Created {worker} of {task}", "{task}의 {worker} 생성"),
    "scaler.worker.adopted": Words("Found {worker} still running", "실행 중인 {worker} 확인"),
    "scaler.worker.refused": Words("Refused {worker}: {why}", "{worker} 거부: {why}"),
    "scaler.worker.create_failed": Words("Could not create {worker} (error id {error_id})", "{worker} 생성 실패 (오류 ID {error_id})"),
    "scaler.worker.start_failed": Words("Could not start {worker}: {why}", "{worker} 시작 실패: {why}"),
    "scaler.worker.start_delayed": Words(
        "{worker} has room, but can't be started yet; trying again: {why}", "{worker} 실행 차례이나 아직 시작할 수 없어 재시도: {why}"
    ),
    "scaler.worker.not_observed": Words("{worker} was accepted but has not been seen yet", "{worker}이(가) 수락되었으나 아직 보이지 않음"),
    "scaler.worker.stopping": Words("Stopping {worker}: {reason}", "{worker} 중지: {reason}"),
    "scaler.worker.stop_failed": Words("Could not ask {worker} to stop: {why}", "{worker}에 중지를 요청하지 못함: {why}"),
    "scaler.worker.ended": Words("{worker} ended: {state} {why}", "{worker} 종료: {state} {why}"),
    "scaler.worker.vanished": Words("The directory of {worker} is gone", "{worker}의 디렉터리가 사라짐"),
    "scaler.worker.unreadable": Words("What {worker} left can't be used: {why}", "{worker}이(가) 남긴 내용을 사용할 수 없음: {why}"),
    "scaler.worker.unwritable": Words("Nothing can be written about {worker}: {why}", "{worker}에 대해 아무것도 기록할 수 없음: {why}"),
    "scaler.worker.supervisor_deaf": Words(
        "The supervisor of {worker} did not end it in time and is killed", "{worker}의 감독 프로세스가 제때 종료하지 않아 강제 종료함"
    ),
    "scaler.worker.supervisor_lost": Words(
        "The supervisor of {worker} is gone without a report, {killed} processes of the worker were killed: {last_words}",
        "{worker}의 감독 프로세스가 보고 없이 사라져 워커 프로세스 {killed}개를 종료함: {last_words}",
    ),
    "scaler.worker.never_released": Words(
        "Removing {worker}, though nobody said that its lines are stored", "로그 저장이 확인되지 않은 {worker}을(를) 제거함"
    ),
    "scaler.worker.remove_failed": Words("Could not remove {worker}: {why}", "{worker} 제거 실패: {why}"),
    "scaler.worker.supervisor_failed": Words(
        "The supervisor of {worker} failed: {why}. Its last words: {last_words}",
        "{worker}의 감독 프로세스 실패: {why}. 마지막 기록: {last_words}",
    ),
    "scaler.worker.make_failed": Words("The directory of {worker} could not be made", "{worker}의 디렉터리를 만들지 못함"),
    "scaler.worker.run_failed": Words("{worker} could not be started", "{worker}을(를) 시작하지 못함"),
    "scaler.look_failed": Words("The workers can't be looked at now, trying again: {why}", "워커를 지금 확인할 수 없어 다시 시도함: {why}"),
    "scaler.leftovers_unknown": Words(
        "What lost supervisors leave can't be found now, trying again: {why}",
        "사라진 감독 프로세스가 남긴 것을 지금 찾을 수 없어 다시 시도함: {why}",
    ),
    "scaler.descriptors_few": Words(
        "Only {limit} files may be open, {wanted} are needed for {workers} workers: raise the limit (ulimit -Hn), or lower "
        "OTTO_SCALER_MAX_WORKERS",
        "열 수 있는 파일이 {limit}개뿐이나 워커 {workers}개에 {wanted}개가 필요함: 한도(ulimit -Hn)를 높이거나 "
        "OTTO_SCALER_MAX_WORKERS를 낮출 것",
    ),
    "scaler.tidy_failed": Words("Could not delete {path}: {why}", "{path} 삭제 실패: {why}"),
    "scaler.worker.create_away": Words(
        "{worker} could not be created, the caller was told to repeat: {why}", "{worker} 생성 불가, 호출자에게 재시도를 알림: {why}"
    ),
    "scaler.worker.create_again": Words("Trying again to create {worker}: {why}", "{worker} 생성 재시도: {why}"),
    "scaler.worker.overdue": Words("The time of {worker} is over ({cause}): {why}", "{worker}의 시간 초과 ({cause}): {why}"),
    "scaler.worker.left_running": Words(
        "{worker} has ended, and these containers of its pod, put there by somebody else, have not: they are stopped ({containers})",
        "{worker}은(는) 끝났지만 외부에서 추가된 컨테이너가 남아 있어 중지함 ({containers})",
    ),
    "scaler.cluster.away": Words(
        "The cluster can't be watched, trying again; workers count as they were: {why}",
        "클러스터를 관찰할 수 없어 다시 시도함, 워커 상태는 마지막 확인 기준: {why}",
    ),
    "scaler.cluster.back": Words("The cluster is watched again", "클러스터 관찰 재개"),
    "scaler.cluster.missed": Words(
        "{count} changes of workers were never told and have been found by listing", "알려지지 않은 워커 변경 {count}건을 목록 조회로 확인"
    ),
    "scaler.pod.unreadable": Words(
        "Pod {worker} is labelled as a worker of ours and can't be read, it is left alone: {why}",
        "{worker} 파드는 워커로 표시되어 있으나 읽을 수 없어 그대로 둠: {why}",
    ),
    "scaler.events.unknown": Words(
        "What the cluster has to say about {worker} can't be asked: {why}", "{worker}에 대한 클러스터 이벤트를 조회할 수 없음: {why}"
    ),
    "scaler.usage.unknown": Words(
        "What workers use can't be asked of the cluster, so there are no figures of it: {why}",
        "클러스터에서 워커 사용량을 알 수 없어 수치 없음: {why}",
    ),
    "scaler.usage.unreadable": Words("What {worker} uses can't be read: {why}", "{worker} 사용량을 읽을 수 없음: {why}"),
    "scaler.claim.created": Words("Created workspace {claim}", "작업 공간 {claim} 생성"),
    "scaler.claim.deleted": Words("Deleted workspace {claim}", "작업 공간 {claim} 삭제"),
    "scaler.claim.vanished": Words("Workspace {claim} was gone already", "작업 공간 {claim}은(는) 이미 없음"),
    "scaler.claim.delete_failed": Words(
        "Could not delete workspace {claim}, trying again: {why}", "작업 공간 {claim} 삭제 실패, 다시 시도함: {why}"
    ),
    "scaler.claim.list_failed": Words(
        "Workspaces that are to be deleted can't be looked for, trying again: {why}", "삭제할 작업 공간을 찾을 수 없어 다시 시도함: {why}"
    ),
    "scaler.executor.lost": Words("The executor was lost while {pipeline} runs: {why}", "{pipeline} 실행 중 실행기 연결 끊김: {why}"),
    "scaler.pipeline.caller_left": Words("Cancelled {pipeline}: its caller left", "호출자가 떠나 {pipeline} 취소"),
    "scaler.pipeline.cancel_failed": Words(
        "Could not cancel {pipeline} of a caller that left: {why}", "떠난 호출자의 {pipeline} 취소 실패: {why}"
    ),
}

EXECUTOR: dict[str, Words] = {
    "executor.runs.loaded": Words("Pipelines that have not ended and go on: {count}", "끝나지 않은 파이프라인 {count}개를 이어서 진행함"),
    "executor.run.begun": Words("Pipeline {pipeline} begun, {stages} stages", "파이프라인 {pipeline} 시작, 스테이지 {stages}개"),
    "executor.run.ended": Words("Pipeline {pipeline} ended: {status}", "파이프라인 {pipeline} 종료: {status}"),
    "executor.run.taken_over": Words(
        "Pipeline {pipeline} was saved by another process; it is left to that one",
        "다른 프로세스가 파이프라인 {pipeline}을(를) 저장하여 그쪽에 맡김",
    ),
    "executor.run.crashed": Words(
        "An unexpected error in pipeline {pipeline}; it is taken up again as it was stored",
        "파이프라인 {pipeline}에서 예기치 않은 오류, 저장된 상태에서 다시 이어감",
    ),
    "executor.clock.set": Words(
        "The clock was set by {seconds} s while pipeline {pipeline} goes on; its waits move along",
        "파이프라인 {pipeline} 진행 중 시계가 {seconds}초 변경됨, 대기 시간도 함께 옮김",
    ),
    "executor.run.unreadable": Words(
        "Pipeline {pipeline} can't be understood and is left as it is: {reason}",
        "파이프라인 {pipeline}을(를) 해석할 수 없어 그대로 둠: {reason}",
    ),
    "executor.store.moved_aside": Words(
        "{path} can't be used ({reason}); it is kept as {kept}, and a new one is begun. What only the old one knew is not known here: "
        "`sqlite3 {kept} .recover` may give some of it back, or delete it. Check the disk",
        "{path}을(를) 사용할 수 없음({reason}), {kept}(으)로 보존하고 새로 시작함, 이전 파일에만 있던 내용은 알 수 없음: "
        "`sqlite3 {kept} .recover`로 일부를 되살리거나 삭제, 디스크 점검 필요",
    ),
    "executor.store.failing": Words(
        "The memory of runs {path} fails: {reason}. Pipelines wait and go on when it works again",
        "실행 기록 {path} 오류: {reason}. 파이프라인은 복구될 때까지 기다렸다가 이어감",
    ),
    "executor.store.log_taken_away": Words(
        "The write-ahead log of the memory of runs {path} was taken away; what it held is stored again",
        "실행 기록 {path}의 로그 선행 기입(WAL) 파일이 없어져서 그 내용을 다시 저장함",
    ),
    "executor.store.works_again": Words("The memory of runs {path} works again", "실행 기록 {path} 복구됨"),
    "executor.store.synced": Words("The cluster's PipelineRuns are known: {count}", "클러스터의 PipelineRun {count}개 파악됨"),
    "executor.store.watch_interrupted": Words(
        "Watching PipelineRuns was interrupted, trying again: {reason}", "PipelineRun 감시가 중단되어 다시 시도함: {reason}"
    ),
    "executor.arrival.refused": Words("PipelineRun {run} is refused: {reason}", "PipelineRun {run} 거부됨: {reason}"),
    "executor.arrival.delayed": Words(
        "PipelineRun {run} can't be begun now, trying again: {reason}", "PipelineRun {run}을(를) 지금 시작할 수 없어 다시 시도함: {reason}"
    ),
    "executor.departure.delayed": Words(
        "Pipeline {pipeline}, whose PipelineRun was deleted, can't be cleaned up after now, trying again: {reason}",
        "PipelineRun이 삭제된 파이프라인 {pipeline}을(를) 지금 정리할 수 없어 다시 시도함: {reason}",
    ),
    "executor.run.deleted": Words(
        "Pipeline {pipeline} is gone: its PipelineRun was deleted", "파이프라인 {pipeline} 제거됨: PipelineRun이 삭제됨"
    ),
    "executor.run.still_held": Words(
        "Our finalizer can't be taken off PipelineRun {run}, which has ended, now, trying again: {reason}",
        "종료된 PipelineRun {run}의 finalizer를 지금 제거할 수 없어 다시 시도함: {reason}",
    ),
    "executor.run.shortened": Words(
        "The cluster does not take so large a PipelineRun of pipeline {pipeline}; what it says is cut to {size} bytes: {reason}",
        "클러스터가 파이프라인 {pipeline}의 큰 PipelineRun을 받지 않아 내용을 {size}바이트로 줄임: {reason}",
    ),
    "executor.run.gone": Words(
        "The PipelineRun of pipeline {pipeline} vanished while it went on; its workers are stopped",
        "진행 중인 파이프라인 {pipeline}의 PipelineRun이 사라져 워커를 중지함",
    ),
    "executor.spans.not_told_again": Words(
        "Pipelines that ended right before the last stop can't be read, to send their spans again; trying again: {reason}",
        "직전 종료 바로 전에 끝난 파이프라인을 읽을 수 없어 스팬을 다시 보내지 못함, 다시 시도함: {reason}",
    ),
    "executor.runs.unknown": Words(
        "The unfinished pipelines can't be read now, trying again: {reason}",
        "끝나지 않은 파이프라인을 지금 읽을 수 없어 다시 시도함: {reason}",
    ),
    "executor.workspaces.unknown": Words(
        "The workspaces to be deleted can't be read now, trying again: {reason}",
        "삭제할 작업 공간을 지금 읽을 수 없어 다시 시도함: {reason}",
    ),
    "executor.store.unavailable": Words(
        "The state of pipeline {pipeline} can't be stored now, trying again: {reason}",
        "파이프라인 {pipeline}의 상태를 지금 저장할 수 없어 다시 시도함: {reason}",
    ),
    "executor.workers.unavailable": Words(
        "The scaler can't be asked for stage {stage} of {pipeline} now, trying again: {reason}",
        "{pipeline}의 스테이지 {stage}에 대해 지금 스케일러에 요청할 수 없어 다시 시도함: {reason}",
    ),
    "executor.watch.synced": Words("All workers known: {workers} of pipelines", "모든 워커 파악됨: 파이프라인 워커 {workers}개"),
    "executor.watch.interrupted": Words("Watching workers was interrupted: {reason}", "워커 감시가 중단됨: {reason}"),
    "executor.worker.stray": Words(
        "Workers of stage {stage} of pipeline {pipeline}, which has ended or is gone, were stopped",
        "종료되거나 사라진 파이프라인 {pipeline}의 스테이지 {stage} 워커를 중지함",
    ),
    "executor.release.retried": Words(
        "The scaler was not told yet that the ends of {count} workers are stored: {reason}",
        "워커 {count}개의 종료 기록 저장을 아직 스케일러에 알리지 못함: {reason}",
    ),
    "executor.workspace.deleted": Words(
        "Workspace {workspace} of pipeline {pipeline} deleted", "파이프라인 {pipeline}의 작업 공간 {workspace} 삭제됨"
    ),
    "executor.workspace.not_deleted": Words(
        "Workspace {workspace} of pipeline {pipeline} can't be deleted now, trying again: {reason}",
        "파이프라인 {pipeline}의 작업 공간 {workspace}을(를) 지금 삭제할 수 없어 다시 시도함: {reason}",
    ),
    "executor.runs.forgotten": Words("{count} old pipelines forgotten", "오래된 파이프라인 {count}개를 지움"),
    "executor.runs.not_forgotten": Words(
        "Old pipelines can't be forgotten now, trying again: {reason}", "오래된 파이프라인을 지금 지울 수 없어 다시 시도함: {reason}"
    ),
}

RELAY: dict[str, Words] = {
    "relay.worker.following": Words(
        "Following the log of {worker}, {stored} lines are stored already", "{worker} 로그를 따라가는 중, 이미 {stored}줄 저장됨"
    ),
    "relay.worker.collected": Words("All {lines} lines of {worker} are stored", "{worker} 로그 {lines}줄 모두 저장됨"),
    "relay.source.gone": Words(
        "The node has no log any more of container {container} of {worker}: {reason}",
        "노드에 {worker}의 컨테이너 {container} 로그가 더 이상 없음: {reason}",
    ),
    "relay.worker.incomplete": Words("Lines of {worker} are missing: {reason}", "{worker} 로그 일부가 없음: {reason}"),
    "relay.collect.retried": Words(
        "The log of {worker} can't be stored now, trying again: {reason}", "{worker} 로그를 지금 저장할 수 없어 다시 시도함: {reason}"
    ),
    "relay.push.refused": Words(
        "A line that {worker} sent can't be stored now: {reason}", "워커 {worker}에서 보낸 로그를 지금 저장할 수 없음: {reason}"
    ),
    "relay.source.polling": Words(
        "The kernel reports no changes of files, looking for them instead: {reason}",
        "커널이 파일 변경을 알려 주지 않아 직접 확인함: {reason}",
    ),
    "relay.source.kubernetes": Words("Reading the logs of pods in namespace {namespace}", "네임스페이스 {namespace}의 파드 로그를 읽음"),
    "relay.source.merged": Words(
        "The API server does not give stdout and stderr apart, so all lines of pods count as stdout",
        "API 서버가 stdout과 stderr를 나누어 주지 않아 파드 로그를 모두 stdout으로 다룸",
    ),
    "relay.source.broken_off": Words(
        "Reading the log of {worker} broke off, going on behind the last line: {reason}",
        "{worker} 로그 읽기가 끊겨 마지막 줄 다음부터 이어감: {reason}",
    ),
    "relay.secrets.forbidden": Words(
        "Secrets of workers may not be read, so their values are not masked in logs: {reason}. Allow the relay to get secrets, or give "
        "workers none",
        "워커의 시크릿을 읽을 권한이 없어 로그에서 그 값을 가리지 못함: {reason}. 릴레이에 시크릿 get 권한을 주거나 워커에 시크릿을 "
        "주지 마세요",
    ),
    "relay.spool.damaged": Words(
        "{path} holds {damaged_bytes} bytes that are no lines: those are missing, the rest is read, the file is left as it is. "
        "Check the disk",
        "{path}에 로그가 아닌 {damaged_bytes}바이트가 있음, 해당 로그는 유실되고 나머지는 읽으며 파일은 그대로 둠, 디스크 점검 필요",
    ),
    "relay.spool.repaired": Words(
        "The stored log of {worker} was damaged: {cut_bytes} bytes cut from its end, {damaged_bytes} bytes unreadable before",
        "{worker}의 저장된 로그가 손상됨: 끝에서 {cut_bytes}바이트 잘라 냄, 그 앞 {damaged_bytes}바이트는 읽을 수 없음",
    ),
    "relay.order.cut": Words(
        "{cut_bytes} torn bytes cut from the order of pipeline {pipeline}",
        "파이프라인 {pipeline}의 순서 기록 끝에서 손상된 {cut_bytes}바이트 잘라 냄",
    ),
    "relay.order.delayed": Words(
        "Lines of {worker} are stored but not yet in their pipeline's order: {reason}",
        "{worker} 로그는 저장되었으나 파이프라인 순서에는 아직 없음: {reason}",
    ),
    "relay.order.retried": Words(
        "The order of pipeline {pipeline} can't be written now, trying again: {reason}",
        "파이프라인 {pipeline}의 순서를 지금 기록할 수 없어 다시 시도함: {reason}",
    ),
    "relay.stage.incomplete": Words(
        "Stage {stage} of pipeline {pipeline} has ended, but not all its lines came within {seconds} s",
        "파이프라인 {pipeline}의 스테이지 {stage} 종료, {seconds}초 안에 모든 로그가 도착하지 않음",
    ),
    "relay.scaler.lost": Words("The scaler can't be watched, trying again: {reason}", "스케일러를 감시할 수 없어 다시 시도함: {reason}"),
    "relay.scaler.attached": Words("The scaler is watched again; it has {workers} workers", "스케일러를 다시 감시함, 워커 {workers}개"),
    "relay.executor.lost": Words(
        "Pipeline {pipeline} can't be watched, trying again: {reason}", "파이프라인 {pipeline} 감시가 끊겨 다시 시도함: {reason}"
    ),
    "relay.release.retried": Words(
        "The scaler was not told yet that the lines of {count} workers are stored: {reason}",
        "워커 {count}개의 로그 저장 완료를 아직 스케일러에 알리지 못함: {reason}",
    ),
    "relay.retention.deleted": Words(
        "Deleted the lines of {workers} ended workers, {freed_bytes} bytes", "종료된 워커 {workers}개의 로그 {freed_bytes}바이트 삭제됨"
    ),
    "relay.retention.trimmed": Words(
        "The spool is full: deleted the oldest {lines} lines of {worker}, which still runs",
        "저장 공간이 가득 차 실행 중인 {worker}의 가장 오래된 로그 {lines}줄 삭제됨",
    ),
    "relay.handler.lost": Words(
        "otto-handler at {address} can't be reached, {lines} lines wait: {reason}",
        "{address}의 otto-handler에 연결할 수 없음, {lines}줄 대기 중: {reason}",
    ),
    "relay.handler.attached": Words(
        "otto-handler at {address} answers again, catching up {lines} lines", "{address}의 otto-handler 응답 재개, {lines}줄을 따라잡는 중"
    ),
    "relay.handler.stumbled": Words(
        "otto-handler failed {times} times at line {sequence} of {worker}, or at another one just then; it is sent again: {reason}",
        "otto-handler가 {worker}의 {sequence}번 로그(또는 그 무렵의 로그) 처리에 {times}번 실패함, 다시 전송함: {reason}",
    ),
    "relay.handler.notice_stumbled": Words(
        "otto-handler failed {times} times at {notice} of {worker}; it is sent again: {reason}",
        "otto-handler가 {worker}의 {notice} 알림 처리에 {times}번 실패함, 다시 전송함: {reason}",
    ),
    "relay.handler.retried": Words(
        "otto-handler asked {times} times for line {sequence} of {worker} again: {reason}",
        "otto-handler가 {worker}의 {sequence}번 로그를 {times}번 다시 요청함: {reason}",
    ),
    "relay.handler.dropped": Words(
        "otto-handler did not want line {sequence} of {worker}, {lines} lines of it so far: {reason}",
        "otto-handler가 {worker}의 {sequence}번 로그를 거부함, 지금까지 {lines}줄: {reason}",
    ),
    "relay.handler.missing": Words(
        "{lines} lines of {worker} were deleted before otto-handler got them; it was told so",
        "{worker} 로그 {lines}줄이 otto-handler에 전송되기 전에 삭제됨, otto-handler에 알림",
    ),
    "relay.handler.given_up": Words(
        "Too many removed workers wait for otto-handler: it will not be told of {lines} lines and {notices} notices of {worker}",
        "otto-handler를 기다리는 삭제된 워커가 너무 많아 {worker}의 로그 {lines}줄과 알림 {notices}건을 알리지 않음",
    ),
    "relay.handler.refused": Words(
        "otto-handler refused {notice} of {worker}: {reason}", "otto-handler가 {worker}의 {notice} 알림을 거부함: {reason}"
    ),
    "relay.handler.unread": Words(
        "The stored lines of {worker} can't be read for otto-handler now: {reason}",
        "otto-handler에 보낼 {worker}의 저장된 로그를 지금 읽을 수 없음: {reason}",
    ),
    "relay.handler.unsaved": Words(
        "How far otto-handler has the lines and notices of {worker} can't be written down; some may be repeated after a restart: {reason}",
        "otto-handler가 {worker}의 로그와 알림을 어디까지 받았는지 기록할 수 없음, 재시작 후 일부가 반복될 수 있음: {reason}",
    ),
    "relay.handler.position_lost": Words(
        "How far otto-handler has the lines of {worker} is damaged; all that are kept are sent again",
        "otto-handler가 {worker}의 로그를 어디까지 받았는지 기록이 손상되어 보관된 로그를 모두 다시 보냄",
    ),
    "relay.handler.unreadable": Words(
        "{path} can't be understood and is left as it is: {reason}", "{path}을(를) 해석할 수 없어 그대로 둠: {reason}"
    ),
    "relay.collect.failed": Words(
        "Collecting the lines of {worker} failed unexpectedly; trying again", "{worker} 로그 수집 중 예상치 못한 오류, 다시 시도함"
    ),
    "relay.pipeline.failed": Words(
        "Following pipeline {pipeline} failed unexpectedly; trying again", "파이프라인 {pipeline} 추적 중 예상치 못한 오류, 다시 시도함"
    ),
    "relay.pipeline.forgotten": Words(
        "The executor does not know pipeline {pipeline} any more; its log ends here",
        "실행기가 파이프라인 {pipeline}을(를) 더는 모름, 로그를 여기서 끝냄",
    ),
    "relay.retention.failed": Words("The lines of {worker} can't be deleted: {reason}", "{worker} 로그를 삭제할 수 없음: {reason}"),
}

STANDALONE: dict[str, Words] = {}

CATALOG: dict[str, Words] = {**RUNTIME, **SCALER, **EXECUTOR, **RELAY, **STANDALONE}
