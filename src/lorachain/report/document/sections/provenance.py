"""Where the data came from and under which licence, and with what the chain was made."""

from lorachain.artifacts.stages import SourceRecord
from lorachain.licences import UNKNOWN_LICENCE, licence_of_source, terms_of_base
from lorachain.report.document import numbers
from lorachain.report.document.blocks import Block, Cell, Number, Paragraph, Section, Table, Text, Words
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections import words

_UNKNOWN = Text(UNKNOWN_LICENCE, "lorachain이 모르는 라이선스: 모델을 배포하기 전에 밝히십시오")


def source_section(data: ReportData) -> Section:
    """Every source that a step read, with its hash and licence, and the terms of the base."""
    rows: list[tuple[Words | Cell, ...]] = []
    for info in data.trained:
        rows += [_source_row(info.stage, Text("training", "학습"), source) for source in info.sources]
        for pool in info.replay:
            used: Words = (
                Text("replayed, ", "복습, "),
                numbers.percent(pool.share),
                Text(" of the tokens", " (토큰 기준)"),
            )
            rows += [_source_row(info.stage, used, source) for source in pool.sources]
        rows += [_source_row(info.stage, Text("validation", "검증"), source) for source in info.exam_sources]
    terms: list[tuple[Words | Cell, ...]] = [
        (term.name, term.notice, term.link) for term in terms_of_base(data.base_id)
    ]
    blocks: list[Block] = []
    if rows:
        columns = (
            Text("step", "단계"),
            Text("used for", "용도"),
            Text("source", "출처"),
            Text("records read", "읽은 레코드"),
            Text("licence", "라이선스"),
            "SHA-256",
        )
        blocks.append(Table(Text("Data", "데이터"), columns, rows))
        blocks.append(_count_table(data))
    else:
        blocks.append(words.missing("No step has read data yet.", "아직 데이터를 읽은 단계가 없습니다."))
    of_terms = (Text("terms", "약관"), Text("notice", "고지"), Text("address", "주소"))
    blocks.append(Table((Text("Terms of the base ", "베이스의 약관: "), data.base_id), of_terms, terms))
    return Section("sources", Text("Data and licences", "데이터와 라이선스"), blocks)


def _source_row(stage: str, use: Words, source: SourceRecord) -> tuple[Words | Cell, ...]:
    licence = licence_of_source(source.name)
    shown: Words = _UNKNOWN if licence == UNKNOWN_LICENCE else licence
    name: Words = (source.name, f" @ {source.revision[:12]}" if source.revision else "")
    return stage, use, name, numbers.count(source.rows), shown, f"{source.sha256[:16]}…"


def _count_table(data: ReportData) -> Table:
    rows = [
        (info.stage, words.counted(name), numbers.count(number))
        for info in data.trained
        for name, number in info.counts.items()
    ]
    columns = (Text("step", "단계"), Text("counted", "항목"), Text("number", "수"))
    return Table(Text("What was used and left out", "사용한 것과 제외한 것"), columns, rows)


def environment_section(data: ReportData) -> Section:
    """Time, memory, device and versions of every step, and the hashes of its weights."""
    title = Text("Environment", "실행 환경")
    if not data.trained:
        return Section(
            "environment", title, [words.missing("No step has been trained yet.", "아직 학습된 단계가 없습니다.")]
        )
    costs: list[tuple[Words | Cell, ...]] = []
    hashes: list[tuple[Words | Cell, ...]] = []
    for info in data.trained:
        facts, settings = info.training, info.depends_on.settings
        costs.append(
            (
                info.stage,
                facts.device,
                f"{settings.dtype}, {settings.quantization}",
                numbers.decimal(facts.seconds, 0, " s"),
                numbers.decimal(facts.tokens_per_second, 0),
                Number(facts.peak_memory_bytes, f"{facts.peak_memory_bytes / 1e9:.1f} GB"),
                numbers.count(info.depends_on.seed),
            )
        )
        hashes.append((info.stage, f"{info.base_sha256[:16]}…", f"{info.adapter_sha256[:16]}…", info.git_commit or "–"))
    names = sorted({name for info in data.trained for name in info.versions})
    versions = [(name, *(info.versions.get(name, "–") for info in data.trained)) for name in names]
    stages = [info.stage for info in data.trained]
    columns = (
        Text("step", "단계"),
        Text("device", "장치"),
        Text("type, quantization", "자료형, 양자화"),
        Text("training time", "학습 시간"),
        Text("tokens/s", "토큰/초"),
        Text("peak memory", "최대 메모리"),
        Text("seed", "시드"),
    )
    blocks: list[Block] = [
        Table(Text("Cost", "비용"), columns, costs),
        Table(
            Text("Weights", "가중치"),
            (Text("step", "단계"), Text("base", "베이스"), Text("adapter", "어댑터"), Text("commit", "커밋")),
            hashes,
        ),
        Table(Text("Versions", "버전"), (Text("package", "패키지"), *stages), versions),
    ]
    return Section("environment", title, blocks)


def notice_blocks() -> list[Block]:
    """What must be said before anything else: generated text, research only."""
    return [
        Paragraph(
            Text(
                "Text that this model writes, the reasoning in this report included, is generated by artificial "
                "intelligence. Korea's Framework Act on Artificial Intelligence (in force since 22 January 2026), "
                "article "
                "31, asks whoever offers a product or service with generative or high-impact AI to tell its users so "
                "in "
                "advance, and to mark what it generates. AI used in health care can be high-impact AI under article 2 "
                "of "
                "the Act. This is no legal advice.",
                "이 모델이 쓰는 글은 이 보고서의 풀이를 포함하여 인공지능이 생성한 것입니다. 「인공지능 발전과 신뢰 "
                "기반 조성 등에 "
                "관한 기본법」(2026년 1월 22일 시행) 제31조에 따라 생성형 또는 고영향 인공지능을 이용한 제품이나 "
                "서비스를 제공하는 "
                "자는 그 사실을 이용자에게 미리 알리고, 생성된 결과물에 이를 표시하여야 합니다. 보건의료에 쓰는 "
                "인공지능은 같은 법 "
                "제2조의 고영향 인공지능에 해당할 수 있습니다. 이 안내는 법률 자문이 아닙니다.",
            ),
            "warning",
        ),
        Paragraph(
            Text(
                "For research on training only. This is not a medical device and gives no medical advice: do not use "
                "the "
                "model to diagnose, to treat, or to decide anything about a person's health.",
                "학습 연구용입니다. 의료기기가 아니며 의학적 조언을 하지 않습니다. 진단, 치료 등 사람의 건강에 관한 "
                "결정에 사용하지 "
                "마십시오.",
            ),
            "warning",
        ),
    ]


def limit_section() -> Section:
    """How to read the numbers, and what they do not say."""
    texts = (
        Text(
            "An exam score says how a model answers multiple-choice questions, not how it would advise a patient.",
            "시험 점수는 객관식 문항에 어떻게 답하는지를 말할 뿐, 환자에게 어떻게 조언할지를 말하지 않습니다.",
        ),
        Text(
            "An interval in brackets is a 95 % interval: of an accuracy Wilson's, of a difference a paired bootstrap. "
            "n is "
            "the number of questions, answers, tokens or documents.",
            "대괄호 안은 95 % 신뢰구간입니다. 정답률은 Wilson 구간, 차이는 짝지은 부트스트랩 구간입니다. n은 문항, 답, "
            "토큰 또는 문서의 "
            "수입니다.",
        ),
        Text(
            "p is the probability of a difference at least this large if nothing had changed: exact McNemar on the "
            "same "
            "questions. “Not significantly different” does not mean “equal”.",
            "p는 실제로 바뀐 것이 없을 때 이만한 차이가 나올 확률이며, 같은 문항에 대한 정확 McNemar 검정입니다. "
            "“유의한 차이 없음”은 "
            "“같음”이 아닙니다.",
        ),
        Text(
            "Perplexity says how well a text is predicted; lower is better. It compares only models with one "
            "tokenizer.",
            "퍼플렉서티는 글을 얼마나 잘 예측하는지를 나타내며 낮을수록 좋습니다. 토크나이저가 같은 모델끼리만 비교할 "
            "수 있습니다.",
        ),
        Text(
            "Where the best epoch was chosen on dev, its dev score is optimistic. A final score needs questions that "
            "chose nothing: `lorachain eval --split test`, once.",
            "dev로 에포크를 골랐다면 dev 점수는 조금 높게 나옵니다. 최종 점수는 아무것도 고르는 데 쓰지 않은 문항으로 "
            "내야 합니다: "
            "`lorachain eval --split test`를 한 번만.",
        ),
        Text(
            "Reasoning was verified by programs and by the model itself, not by physicians. It can still be wrong.",
            "풀이는 프로그램과 모델 자신이 검증했으며 의사가 검토하지 않았습니다. 여전히 틀릴 수 있습니다.",
        ),
        Text(
            "A public base may have seen exam questions before; lorachain keeps them out of its own training only.",
            "공개 베이스가 시험 문항을 이미 보았을 수 있습니다. lorachain은 자신의 학습에서만 문항을 제외합니다.",
        ),
    )
    return Section(
        "limits",
        Text("Limits, and how to read the numbers", "한계와 숫자 읽는 법"),
        [Paragraph(text) for text in texts],
    )
