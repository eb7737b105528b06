"""Renders a report as one HTML page without scripts: the funnel, the findings, and sample episodes.

``publish.py`` writes it as ``report.html``.
"""

from jinja2 import Environment

from looper.jobs.synthesis.output.report import SynthesisReport

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Synthesis of {{ name }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 :root { color-scheme: light dark; --line: #8884; --bar: #4a7dbd; --weak: #888; --bad: #c0504d; }
 body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }
 h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
 table { border-collapse: collapse; width: 100% } td, th { text-align: left; padding: .15rem .6rem .15rem 0;
   border-bottom: 1px solid var(--line); vertical-align: top } td.n { text-align: right; width: 6rem;
   font-variant-numeric: tabular-nums } td.b { width: 45% }
 .bar { background: var(--bar); height: .8rem; border-radius: 2px; margin-top: .35rem }
 .bad .bar { background: var(--bad) }
 pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; font: 13px/1.4 ui-monospace, monospace }
 .gone, .zero pre { color: var(--weak) } .error { color: var(--bad) } details { margin: .6rem 0 }
 summary { cursor: pointer } .failure { border-left: 4px solid var(--bad); padding-left: .8rem }
</style></head><body>
{% macro rows(counts, total, bad=False) %}
<table{% if bad %} class="bad"{% endif %}>
{% for what, count in counts %}<tr><td>{{ what }}</td><td class="n">{{ count }}</td>
<td class="b"><div class="bar" style="width: {{ (100 * count / total) | round(1) if total else 0 }}%"></div></td></tr>
{% endfor %}</table>{% endmacro %}
<h1>Synthesis of {{ name }}</h1>
{% if report.failure %}<p class="failure">{{ report.failure }}</p>{% endif %}
<h2>From trajectories to examples</h2>
{{ rows(funnel, report.trajectories) }}
{% if rejected %}<h2>Why trajectories were left out</h2>{{ rows(rejected, report.trajectories, True) }}{% endif %}
<h2>How episodes ended</h2>{{ rows(grades, report.trajectories) }}
{% if errors %}<h2>Errors in tool results</h2>{{ rows(errors, num_errors) }}{% endif %}
{% if found %}<h2>What the stages found</h2>{{ rows(found, found[0][1]) }}{% endif %}
<h2>How much is left</h2>
<table>
<tr><td>steps of kept trajectories</td><td class="n">{{ tally.steps_kept }}</td>
<td>of {{ tally.steps_read }} read in all</td></tr>
<tr><td>turns of the agent that are learned</td><td class="n">{{ tally.turns_learned }}</td>
<td>{{ tally.turns_as_context }} more are context only</td></tr>
<tr><td>characters</td><td class="n">{{ tally.characters_kept }}</td><td>of {{ tally.characters_read }}</td></tr>
<tr><td>pairs of a better and a worse turn</td><td class="n">{{ tally.pairs }}</td><td></td></tr>
</table>
{% if report.contexts %}<h2>Examples that are rendered again in another context</h2>
{{ rows(contexts, kept) }}{% endif %}
{% if report.packing %}<h2>How examples fit into windows</h2>
<p>{{ report.packing.examples }} examples to train on, each context counted, in the base model's tokens.</p>
<table>
<tr><td>tokens of an example, median</td><td class="n">{{ report.packing.p50 }}</td>
<td>95% have at most {{ report.packing.p95 }}, the longest {{ report.packing.longest }}</td></tr>
<tr><td>windows of {{ report.packing.max_seq_length }} tokens</td><td class="n">{{ report.packing.windows }}</td>
<td>{{ (100 * report.packing.fill) | round(1) }}% full;
{{ report.packing.divided }} examples take several windows</td></tr>
<tr><td>tokens that are learned</td><td class="n">{{ (100 * report.packing.loss) | round(1) }}%</td>
<td>{{ report.packing.truncated }} turns do not fit with their prompt</td></tr>
{% for reason, count in report.packing.left_out.items() %}<tr><td>turns left out</td><td class="n">{{ count }}</td>
<td>{{ reason }}</td></tr>{% endfor %}
</table>{% endif %}
{% if report.beside %}<h2>Files next to the examples</h2>
<p>Rules are notes for the knowledge layer. Variants are requests that nobody has made yet: try them on the agent.</p>
<table>{% for name, count in report.beside.items() %}<tr><td><a href="{{ name }}">{{ name }}</a></td>
<td class="n">{{ count }}</td></tr>{% endfor %}</table>{% endif %}
{% if tally.leaks %}<h2>Tasks with several names</h2><p>All episodes of such a task are on one side of the split.</p>
{{ rows(leaks, leaks[0][1]) }}{% endif %}
{% if tally.samples %}<h2>Sample episodes</h2>{% endif %}
{% for sample in tally.samples %}
<details><summary>{{ sample.task_id }}, {{ sample.grade or "not graded" }}{% if sample.rejected %},
<span class="error">left out: {{ sample.rejected }}</span>{% endif %}
 <small>{{ sample.trajectory_id }}</small></summary>
<ul>{% for verdict in sample.verdicts %}<li>{{ verdict }}</li>{% endfor %}</ul>
<table>{% for step in sample.steps %}
<tr class="{{ 'gone' if step.weight is none else 'zero' if step.source == 'agent' and not step.weight else '' }}">
<td>{{ step.place }}</td><td>{{ step.source }}</td><td><pre>{{ step.text }}</pre></td>
<td class="n">{% if step.error %}<span class="error">{{ step.error }}</span>
{% elif step.source == "agent" and step.weight is not none %}{{ step.weight | round(2) }}{% endif %}</td></tr>
{% endfor %}</table></details>
{% endfor %}
</body></html>
"""


def render_report_page(report: SynthesisReport, name: str) -> str:
    """Render a report. All text from trajectories is escaped.

    Args:
        report: The report.
        name: Id of the consolidation.

    Returns:
        The HTML page.
    """
    tally = report.tally
    page = Environment(autoescape=True, trim_blocks=True).from_string(_PAGE)
    kept = report.train + report.holdout
    return page.render(
        name=name,
        report=report,
        tally=tally,
        funnel=[
            ("trajectories", report.trajectories),
            ("examples", kept),
            ("to train on", report.train),
            ("held out for the gate", report.holdout),
        ],
        rejected=_largest_first(report.rejected),
        grades=_largest_first(tally.grades),
        errors=_largest_first(tally.errors),
        num_errors=sum(tally.errors.values()),
        found=_largest_first(tally.found),
        leaks=_largest_first(tally.leaks),
        kept=kept,
        contexts=[(context.replace("_", " "), count) for context, count in _largest_first(report.contexts)],
    )


def _largest_first(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
