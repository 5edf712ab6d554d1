"""Spans that are told once something is over: their ids, their names, and where they go."""

from opentelemetry.semconv._incubating.attributes import (
    cicd_attributes,
    error_attributes,
    host_attributes,
    k8s_attributes,
    process_attributes,
    vcs_attributes,
)

from otto_runtime import spans, telemetry

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_ids_follow_from_what_a_span_is_about() -> None:
    """Whoever knows the trace, by whichever of its spans, knows the span of a run, a stage and a worker."""
    run = spans.run(TRACE, "p")
    assert run[:36] == TRACE[:36]
    assert run[-3:] == "-01"
    assert spans.valid(run)
    assert spans.run(spans.worker(TRACE, "w"), "p") == run
    assert spans.stage(run, "p", "s") == spans.stage(TRACE, "p", "s")
    about = [spans.run(TRACE, "ab"), spans.stage(TRACE, "a", "b"), spans.stage(TRACE, "", "ab"), spans.worker(TRACE, "ab"), TRACE]
    assert len(set(about)) == len(about)
    assert spans.run(TRACE.replace("0af7", "1af7"), "p")[36:] != run[36:]
    assert spans.run("", "p") == ""


def test_what_is_no_traceparent_is_none() -> None:
    """W3C's rules: no all-zero ids, no version ff, lower case."""
    assert spans.valid(TRACE)
    assert spans.valid(spans.fresh())
    wrong = (TRACE.replace("b7ad6b7169203331", "0" * 16), "ff" + TRACE[2:], TRACE.upper(), TRACE + "-x", "", "rubbish")
    assert [text for text in wrong if spans.valid(text)] == []
    assert spans.is_sampled(TRACE)
    assert not spans.is_sampled(TRACE[:-2] + "00")
    assert not spans.is_sampled("")


def test_attributes_have_the_names_that_opentelemetry_gives_them() -> None:
    """As its own package of semantic conventions has them, results too."""
    known = {
        value
        for module in (cicd_attributes, error_attributes, host_attributes, k8s_attributes, process_attributes, vcs_attributes)
        for name, value in vars(module).items()
        if name.isupper()
    }
    texts = {name: value for name, value in vars(spans).items() if isinstance(value, str)}
    ours = {value for name, value in texts.items() if name.isupper() and not name.startswith("_") and "." in value}
    assert ours - known == {spans.OWN}
    results = {value.value for value in cicd_attributes.CicdPipelineResultValues}
    assert results == {spans.SUCCESS, spans.FAILURE, spans.ERROR, spans.TIMEOUT, spans.CANCELLATION, spans.SKIP}
    assert results == {value.value for value in cicd_attributes.CicdPipelineTaskRunResultValues}


def test_who_logs_in_at_a_repository_is_not_told() -> None:
    """Neither names nor passwords, whatever is in them; addresses without any are as they were."""
    assert spans.public("https://kim:p@ss@git.example.com/shop.git") == "https://git.example.com/shop.git"
    assert spans.public("https://token@git.example.com/shop.git") == "https://git.example.com/shop.git"
    for plain in ("https://git.example.com/a@b.git", "git@git.example.com:shop.git", "/srv/shop.git"):
        assert spans.public(plain) == plain


def test_spans_go_where_they_are_to_and_only_those_of_sampled_traces() -> None:
    """Nowhere at first; new traces are sampled as whoever is told decides."""
    told: list[spans.Span] = []
    sampled = spans.Span(TRACE, "", "sampled", 1, 2)
    telemetry.tell("test", sampled)
    assert not telemetry.telling()
    assert spans.is_sampled(telemetry.new_traceparent())
    with telemetry.told_by(lambda _, span: told.append(span), lambda _: False):
        assert telemetry.telling()
        telemetry.tell("test", sampled)
        telemetry.tell("test", spans.Span(TRACE[:-2] + "00", "", "not sampled", 1, 2))
        assert not spans.is_sampled(telemetry.new_traceparent())
    telemetry.tell("test", sampled)
    assert told == [sampled]
