"""The verification of the merge."""

from lorachain.artifacts import LogitDiff
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Paragraph, Section, Table, Text, Words
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words


def merge_section(data: ReportData) -> Section:
    """What `merge_report.json` says: every element checked, and the logits against base + adapter."""
    title = Text("Merge verification", "병합 검증")
    report = data.merge_report
    if report is None:
        note = data.notes.get("merge report")
        return Section("merge", title, [words.missing("There is no merge yet.", "아직 병합이 없습니다.", note)])
    totals = report.totals
    rows: list[tuple[Words | Cell, ...]] = [
        (
            Text("adapter tensors, each used once", "어댑터 텐서 (각각 한 번 사용)"),
            numbers.count(totals.adapter_tensors),
        ),
        (Text("weights changed", "바뀐 가중치"), numbers.count(totals.targets)),
        (
            Text("weights untouched, bytes equal", "바뀌지 않은 가중치 (바이트까지 같음)"),
            numbers.count(totals.untouched),
        ),
        (
            Text(
                "largest |(merged − base) − scale·B·A|, in half ulps",
                "최대 |(병합 − 베이스) − scale·B·A| (반 ulp 단위)",
            ),
            numbers.decimal(totals.max_error_half_ulps, 3),
        ),
        (Text("updates lost to rounding", "반올림으로 사라진 갱신"), numbers.percent(totals.lost_to_rounding_share)),
    ]
    if report.probe is not None:
        rows += _probe(Text("merged against base + adapter", "병합과 베이스 + 어댑터 비교"), report.probe)
    for name, probe in (report.quantized_base or {}).items():
        what = Text(f"merged into {name} weights against training", f"{name} 가중치에 병합과 학습 때 비교")
        rows += _probe(what, probe)
    blocks: list[Block] = [
        Paragraph(
            Text(
                "The weights of steps 00 and 01 were added to the public base and checked number by number. An error "
                "of "
                "at most 1 half ulp is one rounding of the stored type, the best that is possible.",
                "00, 01단계의 가중치를 공개 베이스에 더하고 숫자 하나하나를 확인했습니다. 오차가 반 ulp의 1배 이하이면 "
                "저장 "
                "형식의 반올림 한 번과 같으며, 이보다 정확할 수는 없습니다.",
            ),
            "note",
        ),
        Table(Text("Checked", "확인한 것"), (Text("checked", "확인"), Text("result", "결과")), rows),
    ]
    return Section("merge", title, blocks)


def _probe(what: Text, probe: LogitDiff) -> list[tuple[Words | Cell, ...]]:
    row: Words = (
        *("max |Δlogit| ", numbers.decimal(probe.max_abs_logit, 3), Text(", mean ", ", 평균 ")),
        *(
            numbers.decimal(probe.mean_abs_logit, 4),
            Text("; mean KL ", "; 평균 KL "),
            numbers.scientific(probe.mean_kl),
        ),
        *(Text(" nats; letters agree ", " nat; 글자 일치 "), numbers.percent(probe.letter_agreement)),
        *(Text("; rows ", "; 행 "), numbers.count(probe.rows)),
    )
    return [(what, row)]
