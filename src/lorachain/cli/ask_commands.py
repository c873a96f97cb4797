"""ask."""

from typing import Annotated

import typer

from lorachain.cli import options as o
from lorachain.cli.app import app
from lorachain.errors import ConfigError


@app.command("ask", epilog="Example: lorachain ask 급성심근경색 --as dictionary --compare base,01")
def ask_models(
    text: Annotated[str | None, typer.Argument(metavar="[QUESTION]", help="What is asked.")] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            metavar="A,B,…",
            help="Models: base, stages, directories, hub ids. Default: the last stage.",
        ),
    ] = None,
    question_id: Annotated[
        str | None, typer.Option("--question", metavar="ID", help="Ask a question of the exam instead.")
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as", help="dictionary, exam (as they are trained), chat or plain. Default: chat if there is a template."
        ),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="With --question: reasoning too.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", min=1, max=8192)] = None,
    temperature: Annotated[float, typer.Option("--temperature", min=0, max=5, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 0,
    exam: o.Exam = None,
    model: o.Model = o.DEFAULT_MODEL,
    workspace: o.WorkspaceDir = o.HERE,
    config: o.ConfigFile = None,
    device: o.Device = None,
) -> None:
    """Ask the models of a chain a question and compare their answers. For research: no medical advice."""
    if (text is None) == (question_id is None):
        raise ConfigError(
            "give a question, or --question with the id of an exam question; such as: "
            "lorachain ask 급성심근경색 --as dictionary"
        )
    if question_id is not None and form is not None:
        raise ConfigError("--as has no effect on --question, which is asked as stage 02 trains it")
    if explain and question_id is None:
        raise ConfigError("--explain belongs to --question")
    if text is not None and not text.strip():
        raise ConfigError("the question is empty")
    context = o.build_context(o.Common(model, workspace, config, exam=exam, device=device), "ask")

    from lorachain.collection import collection_paused

    with collection_paused():  # the imports take a quarter longer with it
        from lorachain.ask.answers import Sampling, ask, models_to_ask
        from lorachain.ask.exam_question import find_question
        from lorachain.ask.forms import check_form, prompts_of_question, prompts_of_text
        from lorachain.chain.debug_log import quiet_libraries
        from lorachain.report.ask_text import answers_view, options_table, question_text
        from lorachain.report.console import ConsoleReporter

    quiet_libraries()
    asked_form, sampling, console = check_form(form), Sampling(temperature, seed, max_new_tokens), ConsoleReporter()
    named = [name.strip() for name in compare.split(",") if name.strip()] if compare is not None else []
    if compare is not None and not named:
        raise ConfigError(f"--compare is {compare!r}; name models, separated by commas, such as base,01,02")
    models = models_to_ask(context, named)
    names = [scored.name for scored in models]
    if question_id is None:
        with answers_view(console.out, names) as view:
            ask(
                context,
                models,
                lambda encoder: prompts_of_text(text or "", asked_form, encoder),
                view,
                sampling=sampling,
            )
        return
    question, split = find_question(context.sources.exam, question_id)
    console.out.print(question_text(question, split), markup=False, highlight=False, soft_wrap=True)
    with answers_view(console.out, names) as view:
        answered = ask(
            context,
            models,
            lambda encoder: prompts_of_question(question, encoder, explain=explain),
            view,
            sampling=sampling,
            question=question,
        )
    console.table(options_table(question, answered))
