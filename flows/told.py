"""What a person reads of the facts of a run, a snapshot or a model version."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterator, Sequence

from conf.errors import some
from flows.certificate import shown
from flows.facts import Facts, rows_of
from flows.runs import SHORT, version_of
from ledger.records import Record

WIDTH, LABEL = 116, 12
Said = Iterator[tuple[str, str]]  # label and text; without a label it is a heading


def lines(facts: Facts) -> list[str]:
    """The whole story, in lines for a terminal; at its end what could not be told."""
    tell = {"run": _tell_run, "snapshot": _tell_snapshot, "version": _tell_version}[facts["kind"]]
    said = [*tell(facts), *(("not told", text) for text in facts["untold"])]
    return [line for label, text in said for line in _wrapped(label, text)]


def notes(record: Record, data: Facts, won: Facts) -> dict[str, str]:
    """A line of plain words for the boxes of the graph, by stage."""
    found = {}
    if data.get("snapshot"):
        found["ingest"] = f"{data['snapshot']}, {data['rows'] or 0:,} rows"
    if won:
        found["sweep"] = f"{won['trials'] or 'its'} trials, best {won['trainer']}"
        if (value := won["holdout"].get("metrics", {}).get(won["metric"])) is not None:
            found["evaluate"] = f"{won['trainer']}, {won['metric']} {_figure(value)}"
    if version := version_of(record):
        found["register"] = f"{version}, {'refused' if record.made.get('passed') is False else 'passed'}"
    return found


def _wrapped(label: str, text: str) -> list[str]:
    """`text`, made harmless for a terminal, in lines of one width beside its label; a text without label is a heading."""
    text = shown(text, 4000)
    if not label:
        return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    first = f"  {label:<{LABEL - 2}}"
    indent = " " * (LABEL + (2 if text.startswith("- ") else 0))
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _tell_run(facts: Facts) -> Said:
    yield "", f"Run {facts['run_id']}: {facts['run_verb']} of {facts['dataset']}, {_status(facts['status'])}."
    took = f" It took {facts['took_s']:.1f} s." if facts["took_s"] is not None else ""
    until = f" up to the stage {facts['until']}" if facts["until"] != "report" else ""
    yield "who", f"{facts['who'] or 'Somebody'} started it on {_when(facts['started'])}{until}, with seed {facts['seed']}.{took}"
    if facts["command"]:
        yield "command", shlex.join(facts["command"])
    if facts["error"]:
        yield "error", facts["error"]
    yield "code", _code_words(facts["code"])
    yield "machine", _machine_words(facts["environment"])
    yield from _tell_data(facts["data"])
    for at, stage in enumerate(facts["stages"]):
        yield ("" if at else "stages") or " ", _stage_words(stage)
    yield from _tell_won(facts["won"])
    yield from _tell_gates(facts["gates"])
    yield "outcome", _outcome_words(facts["outcome"], facts["status"])
    yield from _tell_reproduce(facts["reproduce"])


def _tell_snapshot(facts: Facts) -> Said:
    rows = f"{facts['rows']:,} rows" if facts["rows"] is not None else "rows that are not known"
    yield "", f"Snapshot {facts['dataset']}@{facts['version']}: {rows}, digest {facts['digest'] or 'not known'}."
    yield "files", f"It cannot be read any more: {facts['gone']}." if facts["gone"] else f"{facts['files']} files in {facts['folder']}."
    if facts["made"]:
        source = f"from a source with the fingerprint {_short(facts['source'])}" if facts["source"] else "from a source without fingerprint"
        yield "made", f"Run {facts['made_by'][:SHORT]} made it on {_when(facts['made'])}, {source}."
    else:
        made_by = f"run {facts['made_by'][:SHORT]}, whose record is gone" if facts["made_by"] else "no run that is known"
        yield "made", f"It was made by {made_by}."
    yield from _tell_counts(facts)
    runs = [f"{each['run_id'][:SHORT]} ({each['started'][:10]}, {each['status']})" for each in facts["learned"]]
    yield "learned", f"{_count(len(runs), 'run')} learned from it: {some(runs, 8)}." if runs else "No run has learned from it."
    yield "versions", f"Model versions that came of it: {some(facts['versions'])}." if facts["versions"] else "No model version came of it."


def _tell_version(facts: Facts) -> Said:
    name = f"{facts['model']}/{facts['version']}"
    aliases = "aliases not known" if facts["aliases"] is None else " and ".join(facts["aliases"]) or "without alias"
    yield "", f"Model version {name}: {aliases}; its gates said {'yes' if facts['passed'] else 'no'}."
    when = f" on {_when(facts['made'])}" if facts["made"] else ""
    others = f" The same model came of {_count(len(facts['also_made_by']), 'other run')}." if facts["also_made_by"] else ""
    yield "made", f"Run {facts['run_id'][:SHORT]} made it{when}.{others}"
    state = {"there": "lies in", "gone": "is gone from", "damaged": "has another digest in"}.get(facts["bundle"])
    yield "bundle", f"Digest {facts['digest']}" + (f"; the bundle {state} {facts['folder']}." if state else ".")
    yield from _tell_data(facts["data"])
    yield from _tell_won(facts["won"])
    yield from _tell_gates(facts["gates"])
    yield "answers", _answers_words(facts, name)


def _code_words(code: Facts) -> str:
    if code["commit"] is None and code["branch"] is None:
        return f"No commit is known: {code['left_out'].get('.', 'no git repository')}. The workers imported pack {_short(code['pack'])}."
    said = f"Commit {code['commit'][:SHORT] if code['commit'] else 'none yet'} on {code['branch'] or 'no branch'}"
    said += f", with {_count(len(code['changed']), 'changed file')} ({some(code['changed'], 4)})." if code["changed"] else ", unchanged."
    if code["redacted"]:
        said += f" Secrets were taken out of {_count(len(code['redacted']), 'kept file')} ({some(code['redacted'], 4)})."
    if code["left_out"]:
        said += f" Not kept: {some([f'{path} ({why})' for path, why in code['left_out'].items()], 3)}."
    return said


def _machine_words(found: Facts) -> str:
    threads = "".join(f", {name}={value}" for name, value in sorted((found["threads"] or {}).items()))
    return (
        f"{found['implementation'] or 'Python'} {found['python']}, lock file {_short(found['lock_digest'])}; "
        f"{found['processor']} ({found['machine']}), {found['usable_cpus']} CPUs, {found['memory_gib']} GiB, {found['system']}{threads}."
    )


def _tell_data(data: Facts) -> Said:
    if not data:
        yield "data", "It ended before it had any."
        return
    rows = f"{data['rows']:,} rows, " if data["rows"] is not None else ""
    source = f" Its source had the fingerprint {_short(data['source'])}." if data["source"] else " Its source has no fingerprint."
    if data.get("taken"):
        source = " It was taken as it lay (snapshot=N): the source was not read."
    yield "data", f"Snapshot {data['snapshot'] or 'not known'}: {rows}digest {data['digest']}.{source}"
    yield from _tell_counts(data)


def _tell_counts(found: Facts) -> Said:
    if count := found.get("duplicates"):
        yield " ", f"Removed as duplicates: {_count(count, 'row')}."
    for name, what in (("quarantined", "Not let in"), ("warned", "Let in with a warning")):
        if counts := found[name]:
            rules = [f"{rule} ({count:,})" for rule, count in sorted(counts.items(), key=lambda each: -each[1])]
            yield " ", f"{what}: {_count(sum(counts.values()), 'row')}, by rule {some(rules, 5)}."
        elif counts is not None and name == "quarantined":
            yield " ", "No row was quarantined."


def _stage_words(stage: Facts) -> str:
    name, why, seconds = stage["stage"], stage["why"], f"{stage['seconds']:.1f} s"
    how = f"ran in {seconds} ({why})" if stage["ran"] else f"was kept, {why} ({seconds})"
    read = f"; read {_digests(stage['inputs'])}" if stage["inputs"] and name != "report" else ""
    return f"- {name} {how}{read}; made {_digests(stage['outputs']) or 'nothing'}"


def _digests(found: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {_short(digest)}" for name, digest in found.items())


def _tell_won(won: Facts) -> Said:
    if not won:
        return
    params = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in won["params"].items())
    of = f" of {won['trials']}" if won["trials"] else ""
    ended = ", ".join(f"{count} {status}" for status, count in won["not_finished"].items() if count)
    yield "won", f"{won['trainer']}, trial {won['trial']}{of}{f' ({ended})' if ended else ''}, with {params or 'its defaults'}."
    metric, holdout = won["metric"], won["holdout"]
    said = [f"{metric} {_figure(won['validation'][metric])} on the validation rows"] if metric in won["validation"] else []
    if metric in holdout.get("metrics", {}):
        interval = holdout["intervals"].get(metric)
        between = f" (95 %: {_figure(interval[0])} to {_figure(interval[1])})" if interval else ""
        said.append(f"{_figure(holdout['metrics'][metric])}{between} on {holdout['rows']:,} rows nobody learned from")
        rivals = {"a constant answer": won["constant"], "the champion of then": won["champion"] or {}}
        said += [f"{who} has {_figure(theirs[metric])}" for who, theirs in rivals.items() if metric in theirs]
    if said:
        yield " ", f"{'; '.join(said)}."


def _tell_gates(verdicts: Sequence[Facts]) -> Said:
    if verdicts:
        passed = sum(verdict["passed"] for verdict in verdicts)
        yield "gates", f"{passed} of {len(verdicts)} said yes."
        for verdict in verdicts:
            yield " ", f"- {verdict['name']} {'yes' if verdict['passed'] else 'NO'}: {verdict['reason']}"


def _outcome_words(found: Facts, status: str) -> str:
    against = f"against champion {found['against']}" if found["against"] else "with no champion to beat"
    if found["version"] is None:
        waits = found["registered"] == "tracking is down"
        return (
            f"A model was made, {against}; it waits in the spool to be registered."
            if waits
            else f"Nothing was registered: the run {'goes on' if status == 'RUNNING' else 'did not come so far'}."
        )
    said = f"Registered as {found['version']}, {against}"
    if found["passed"] is False:
        said += f"; refused: {'; '.join(found['refused']) or 'by its gates'}."
    elif found["released"]:
        said += "; it passed its gates and was released as champion."
    else:
        policy = found["release_policy"]
        why = f"deploy={policy['deploy']}" if policy.get("deploy") == "none" else "the run ended before"
        said += f"; it passed its gates and was not released ({why})."
    now, known = found["champion_now"], "; tracking is down, so this is the last known" if found["champion_stale"] else ""
    return f"{said} The champion is {'this very version' if now == found['version'] else now or 'nobody'} now{known}."


def _answers_words(facts: Facts, name: str) -> str:
    found = facts["answers"]
    live, before = found["version"], found["previous"]
    where = f"at {found['url']}" if found["up"] else "once the platform is up (raycycle up)"
    if live is None:
        said = f"No version of {facts['model']} was ever released here."
    elif live == facts["version"]:
        said = f"It answers {where}; it replaced {facts['model']}/{before}." if before else f"It answers {where}; it is the first that did."
    else:
        said = f"{facts['model']}/{live} answers {where}{', in the place of this one' if before == facts['version'] else ''}."
    return f"{said} {name} was measured against {facts['against']}." if facts["against"] else f"{said} It was measured against no champion."


def _tell_reproduce(found: Facts) -> Said:
    if found["prevented"]:
        yield "again", f"It cannot be reproduced: {'; '.join(found['prevented'])}."
    else:
        yield "again", f"{found['command']} can replay it."
    for doubt in found["doubts"]:
        yield " ", f"- but {doubt}"
    if made := found["certificate"]:
        yield " ", f"Replayed by {made['by']} on {_when(made['made'])}: {made['verdict']}."


def _status(status: str) -> str:
    return {"RUNNING?": "perhaps running (its process cannot be seen from here)"}.get(status, status)


def _when(time: str) -> str:
    return f"{time[:10]} at {time[11:19]} UTC"


def _short(digest: str | None) -> str:
    """The first letters of a digest; a digest of rows begins with how many they are."""
    if not digest:
        return "unknown"
    parts = digest.split(":")
    return f"{parts[1]}:{parts[2][:SHORT]}" if rows_of(digest) is not None else digest[:SHORT]


def _figure(value: float | str) -> str:
    """A metric; what is not finite is kept as text, since JSON has no word for it."""
    return f"{float(value):.4f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
