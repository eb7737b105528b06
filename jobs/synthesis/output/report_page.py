"""A report as a page for people: the funnel, what was found, and episodes before and after. One file, no scripts."""

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
{% if errors %}<h2>Errors that tools answered with</h2>{{ rows(errors, errors_in_all) }}{% endif %}
{% if found %}<h2>What the stages found</h2>{{ rows(found, found[0][1]) }}{% endif %}
<h2>How much is left</h2>
<table>
<tr><td>steps, of kept trajectories</td><td class="n">{{ tally.steps_kept }}</td>
<td>of {{ tally.steps_read }} read in all</td></tr>
<tr><td>the agent's turns that are learned</td><td class="n">{{ tally.turns_learned }}</td>
<td>{{ tally.turns_as_context }} more are context only</td></tr>
<tr><td>characters</td><td class="n">{{ tally.characters_kept }}</td><td>of {{ tally.characters_read }}</td></tr>
<tr><td>pairs of a better and a worse turn</td><td class="n">{{ tally.pairs }}</td><td></td></tr>
</table>
{% if report.packing %}<h2>How examples fit into windows</h2>
<p>Measured on {{ report.packing.examples }} of {{ report.train }} examples, in the base model's tokens.</p>
<table>
<tr><td>tokens of an example: median</td><td class="n">{{ report.packing.p50 }}</td>
<td>95% have at most {{ report.packing.p95 }}, the longest {{ report.packing.longest }}</td></tr>
<tr><td>windows of {{ report.packing.max_context }} tokens</td><td class="n">{{ report.packing.windows }}</td>
<td>{{ (100 * report.packing.fill) | round(1) }}% full; {{ report.packing.divided }} examples take several</td></tr>
<tr><td>tokens that are learned</td><td class="n">{{ (100 * report.packing.loss) | round(1) }}%</td>
<td>{{ report.packing.truncated }} examples lose some to truncation</td></tr>
</table>{% endif %}
{% if report.beside %}<h2>Beside the examples</h2>
<p>Rules are notes for the knowledge layer. Variants are requests that nobody made yet, for the agent to be tried on.
</p>
<table>{% for name, count in report.beside.items() %}<tr><td><a href="{{ name }}">{{ name }}</a></td>
<td class="n">{{ count }}</td></tr>{% endfor %}</table>{% endif %}
{% if tally.leaks %}<h2>Tasks under several names</h2><p>Each is on one side of the split with all its episodes.</p>
{{ rows(leaks, leaks[0][1]) }}{% endif %}
{% if tally.samples %}<h2>Before and after</h2>{% endif %}
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


def to_html(report: SynthesisReport, name: str) -> str:
    """``name`` is the consolidation's. All that came from trajectories is escaped."""
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
        rejected=_most(report.rejected),
        grades=_most(tally.grades),
        errors=_most(tally.errors),
        errors_in_all=sum(tally.errors.values()),
        found=_most(tally.found),
        leaks=_most(tally.leaks),
    )


def _most(counts: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
