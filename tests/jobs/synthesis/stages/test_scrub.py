"""Secrets and personal data are replaced, other values stay, and one value has one placeholder in an episode."""

import json
import re
import subprocess
import sys
import time
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from looper.gym import WORKPLACES, record_episodes
from looper.jobs.synthesis.draft import Draft, StageVerdict
from looper.jobs.synthesis.sensitive.json_leaves import MAX_JSON_DEPTH
from looper.jobs.synthesis.stages.scrub import scrub
from looper.platform.domain.trajectory import Step, ToolCall, Trajectory
from tests.jobs.synthesis.sensitive_cases import Case, card_number, harmless_cases, iban, sensitive_cases

KEY = "sk_" + "live_4eC39HqLyjWDarjtT1zdp7dc"


def draft(*steps: Step) -> Draft:
    return Draft.from_trajectory(Trajectory.create(task_id="t", format="test", steps=steps), has_labels=False)


def scrubbed_message(text: str) -> str:
    """Return the scrubbed text of an episode with one message of the user."""
    return scrub(draft(Step(source="user", content=text))).steps[0].step.content


def scrubbed_arguments(arguments: object, tool: str = "update") -> str:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    step = Step(source="agent", tool_calls=(ToolCall(id="c", name=tool, arguments=text),))
    return scrub(draft(step)).steps[0].step.tool_calls[0].arguments


def all_texts(draft: Draft) -> list[str]:
    return [
        text for step in draft.steps for text in (step.step.content, *(call.arguments for call in step.step.tool_calls))
    ]


def episode() -> Draft:
    """Return an episode that mentions sensitive values of several kinds and later repeats them in other forms."""
    profile = {
        "user_id": "mia_li_3668",
        "name": {"first_name": "Mia", "last_name": "Li"},
        "phone": "+1 415 555 0199",
        "dob": "1990-05-14",
        "address": {"address1": "281 Spruce Street", "address2": "Suite 217", "city": "Austin", "zip": "78712"},
        "orders": ["#W1234567"],
        "keys": {"api_key": KEY},
    }
    return draft(
        Step(source="system", content="You help at the shop."),
        Step(
            source="user",
            content="Hi, I am mia.li38@mail.com, born May 14, 1990; call (415) 555-0199. About #W1234567.",
        ),
        Step(source="agent", tool_calls=(ToolCall(id="1", name="find", arguments='{"email":"Mia.Li38@mail.com"}'),)),
        Step(source="tool", content=json.dumps(profile), call_id="1"),
        Step(
            source="agent",
            content=f"Thank you, Mia! I ship #W1234567 to 281 Spruce Street, Suite 217, Austin 78712, key {KEY}.",
            tool_calls=(ToolCall(id="2", name="ship", arguments='{"user_id": "mia_li_3668", "zip": "78712"}'),),
        ),
        Step(source="tool", content="shipped to Mia Li, 415-555-0199", call_id="2"),
    )


# --- recall and harm


def plant_cases(cases: list[Case], other_cases: list[Case]) -> list[tuple[list[Case], Draft, Draft]]:
    """Insert three cases each into messages, tool results and arguments of the gym's episodes.

    Return the inserted cases, the episode before and the episode after scrubbing.
    """
    recorded = [episode.result.messages for place in WORKPLACES.values() for episode in record_episodes(place, 0)]
    episodes = []
    for start in range(0, len(cases), 3):
        planted = cases[start : start + 3]
        texts = [text for _, text in planted] + [text for _, text in other_cases[start : start + 3]]
        Random(start).shuffle(texts)
        messages = recorded[start // 3 % len(recorded)]
        steps = [Step(source="system", content=messages[0]["content"])]
        steps.append(Step(source="user", content=f"{messages[1]['content']} {texts[0]}"))
        for number, text in enumerate(texts[1:]):
            arguments = text if text.startswith("{") and number % 2 else json.dumps({"ref": "HD-5935", "note": text})
            steps.append(
                Step(source="agent", tool_calls=(ToolCall(id=f"c{number}", name="note", arguments=arguments),))
            )
            steps.append(Step(source="tool", content=text if number % 3 else "noted", call_id=f"c{number}"))
        before = draft(*steps, Step(source="agent", content="done"))
        episodes.append((planted, before, scrub(before)))
    return episodes


def occurrences(value: str, draft: Draft) -> int:
    """Return how often ``value`` occurs as a complete word, plain or escaped in JSON."""
    forms = {re.escape(value), re.escape(json.dumps(value)[1:-1])}
    word = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(sorted(forms))})(?![A-Za-z0-9])")
    return sum(len(word.findall(text)) for text in all_texts(draft))


def test_sensitive_values_are_replaced() -> None:
    cases = sensitive_cases(Random(1), 480)
    episodes = plant_cases(cases, harmless_cases(Random(2), 480))
    missed = [case for planted, _, after in episodes for case in planted if occurrences(case[0], after)]
    recall = 1 - len(missed) / len(cases)
    print(f"recall {recall:.3f} of {len(cases)}")
    assert recall >= 0.95, missed


def test_harmless_values_are_kept() -> None:
    cases = harmless_cases(Random(3), 960)
    episodes = plant_cases(cases, sensitive_cases(Random(4), 960))
    harmed = [
        case
        for planted, before, after in episodes
        for case in planted
        if occurrences(case[0], after) < occurrences(case[0], before)
    ]
    harm = len(harmed) / len(cases)
    print(f"harm {harm:.4f} of {len(cases)}")
    assert harm <= 0.01, harmed


def test_episodes_of_the_gym_are_not_changed() -> None:
    for place in WORKPLACES.values():
        for episode in record_episodes(place, 0):
            steps = [
                Step(source="user", content=message["content"] or "", tool_calls=tool_calls_of(message))
                for message in episode.result.messages
            ]
            before = draft(*steps)
            assert scrub(before) is before


def tool_calls_of(message: dict[str, object]) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls") or ()
    assert isinstance(calls, list | tuple)
    return tuple(
        ToolCall(id=call["id"], name=call["function"]["name"], arguments=call["function"]["arguments"])
        for call in calls
    )


# --- placeholders


def test_a_value_gets_one_placeholder_in_the_whole_episode() -> None:
    after = scrub(episode())
    _, user, lookup, profile, reply, shipped = (step.step for step in after.steps)
    email = json.loads(lookup.tool_calls[0].arguments)["email"]
    assert re.fullmatch(r"person\d{4}@example\.com", email)
    assert email in user.content
    customer = json.loads(profile.content)
    name = customer["name"]
    assert f"{name['first_name']}!" in reply.content
    assert f"{name['first_name']} {name['last_name']}," in shipped.content
    assert customer["user_id"] == f"{name['first_name']}_{name['last_name']}_3668".lower()
    assert json.loads(reply.tool_calls[0].arguments) == {
        "user_id": customer["user_id"],
        "zip": customer["address"]["zip"],
    }
    street = (
        f"{customer['address']['address1']}, {customer['address']['address2']}, Austin {customer['address']['zip']}"
    )
    assert street in reply.content
    assert customer["keys"]["api_key"] in reply.content
    area, line = re.search(r"\((\d{3})\) 555-(\d{4})", user.content).groups()  # type: ignore[union-attr]
    assert customer["phone"] == f"+1 {area} 555 {line}"
    assert f"{area}-555-{line}" in shipped.content
    year, month, day = customer["dob"].split("-")
    assert year == "1990"
    assert re.search(rf"born [A-Z][a-z]+ {int(day)}, 1990", user.content), (month, user.content)
    assert customer["orders"] == ["#W1234567"]
    for value in ("Mia", "mia", "Li38", "415", "Spruce", "78712", KEY, "1990-05-14", "May 14"):
        assert not occurrences(value, after), value


def test_reasoning_is_scrubbed_with_the_same_placeholders() -> None:
    said = Step(source="user", content="My mail is mia.li38@mail.com.")
    thought = Step(source="agent", content="Noted.", reasoning="So it is mia.li38@mail.com.")
    first, second = (step.step for step in scrub(draft(said, thought)).steps)
    assert "mia" not in second.reasoning
    assert second.reasoning.removeprefix("So it is ") == first.content.removeprefix("My mail is ")


def test_different_values_get_different_placeholders() -> None:
    emails = [f"p{number}@mail.com" for number in range(300)]
    after = scrubbed_message(" ".join(emails)).split()
    assert len(set(after)) == len(emails)
    people = [
        f"{first}{letter} Kovacs{letter}"
        for first in ("Ann", "Bo", "Cy", "Di")
        for letter in "abcdefghijklmnopqrstuvwxyz"
    ]
    names = json.loads(scrubbed_arguments({"passenger_names": people}))["passenger_names"]
    assert len(set(names)) == len(people)
    assert not set(names) & set(people)


def test_a_value_gets_one_placeholder_under_different_labels() -> None:
    after = scrub(
        draft(
            Step(
                source="user",
                content="Address: 12 Maple Street, Springfield 12345, phone 415-555-0123, token=a1B2c3D4e5",
            ),
            Step(
                source="tool",
                content='{"password": "a1B2c3D4e5", "phone": "+14155550123", "zip": "12345"}',
                call_id="c",
            ),
        )
    )
    message, observed = all_texts(after)
    fields = json.loads(observed)
    assert message.endswith(f"token={fields['password']}")
    assert f"phone {fields['phone'][2:5]}-{fields['phone'][5:8]}-{fields['phone'][8:]}," in message
    assert f"Springfield {fields['zip']}," in message


def test_a_value_gets_the_same_placeholder_in_another_episode() -> None:
    """Later stages compare the episodes of one task with each other and with other tasks."""
    text = "I am at rose7@mail.com, 415-555-0123."
    assert scrubbed_message(text) == scrubbed_message(f"{text} It is late.").removesuffix(" It is late.")
    assert scrub(episode()) == scrub(episode())


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("4242 4242 4242 4242", r"4\d{3} \d{4} \d{4} 4242"),
        ("5555-5555-5555-4444", r"5\d{3}-\d{4}-\d{4}-4444"),
        ("(415) 555-0123", r"\(\d{3}\) 555-01\d\d"),
        ("+51 987 654 321", r"\+51 98\d \d{3} \d{3}"),
        (
            KEY,
            KEY[:8]
            + "".join("[0-9]" if char.isdigit() else "[A-Z]" if char.isupper() else "[a-z]" for char in KEY[8:]),
        ),
        ("AKIAIOSFODNN7EXAMPLE", r"AKIA[A-Z]{8}\d[A-Z]{7}"),
        ("ghp_" + "a1B2" * 9, r"ghp_([a-z]\d[A-Z]\d){9}"),
        ("my ssn is 123-45-6789", r"my ssn is 9\d\d-[0-4]\d-\d{4}"),
        ("81 Spruce Street, Suite 5", r"[1-9]\d [A-Z][a-z]+ Street, Suite \d"),
        ("ssh root@81.2.3.4", r"ssh root@198\.1[89]\.\d+\.\d+"),
        ("postgres://app:hunter22@db/x", r"postgres://app:[a-z]{6}\d\d@db/x"),
        ("date of birth: 14 May 1990", r"date of birth: \d{1,2} [A-Z][a-z]+ 1990"),
        ("dob: 05/14/1990", r"dob: \d\d/\d\d/1990"),
    ],
)
def test_a_placeholder_has_the_form_of_the_value(text: str, form: str) -> None:
    after = scrubbed_message(text)
    assert after != text
    assert re.fullmatch(form, after), after


def test_check_digits_of_placeholders_are_right() -> None:
    from looper.jobs.synthesis.sensitive.personal_data import passes_luhn, passes_mod97

    for seed in range(20):
        card = json.loads(scrubbed_arguments({"card_number": card_number(Random(seed))}))["card_number"]
        account = json.loads(scrubbed_arguments({"iban": iban(Random(seed))}))["iban"]
        assert passes_luhn(card)
        assert passes_mod97(account)


def test_a_name_is_only_replaced_where_it_is_used_as_a_name() -> None:
    text = "My name is Will Long. Will it take long? Thanks, Will. Annual, Li-ion, willing. will_long_77, WILL LONG"
    after = scrubbed_message(text)
    first, last = re.match(r"My name is (\w+) (\w+)\.", after).groups()  # type: ignore[union-attr]
    assert (first, last) != ("Will", "Long")
    assert after == (
        f"My name is {first} {last}. Will it take long? Thanks, Will. Annual, Li-ion, willing. "
        f"{first}_{last}_77, {first.upper()} {last.upper()}"
    ).replace(f"{first}_{last}", f"{first}_{last}".lower()).replace("Thanks, Will", f"Thanks, {first}")


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        ({"customer": {"name": "Mia Rossi", "id": "C1"}}, True),
        ({"name": "Mia Rossi", "email": "m@mail.com"}, True),
        ({"name": "Rossi Pasta 500 g", "email": "m7@mail.com"}, False),
        ({"name": "Mechanical Keyboard", "price": 3}, False),
        ({"customer_name": "Nortrans Logistics SAC"}, False),
        ({"user_name": "shop"}, False),
        ({"name": "Stone, Alice"}, False),
    ],
)
def test_a_name_field_is_replaced_if_its_object_is_a_person(arguments: dict[str, object], changes: bool) -> None:
    after = json.loads(scrubbed_arguments(arguments))
    name = next((key for key in arguments if key.endswith("name")), "customer")
    assert (after[name] != arguments[name]) is changes


def test_the_name_argument_of_a_tool_for_people_is_replaced() -> None:
    assert json.loads(scrubbed_arguments({"name": "Mia Rossi"}, "find_customer"))["name"] != "Mia Rossi"
    assert json.loads(scrubbed_arguments({"name": "Mia Rossi"}, "find_recipe"))["name"] == "Mia Rossi"


# --- JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"email":"mia@mail.com","n":1.50,"big":123456789012345678901234567890,"ok":true,"none":null,"list":[1,"a"]}',
        '{"b": "mia@mail.com", "a": {"z": [], "y": {}}, "phone": 4155550123}',
        '{\n  "email": "mia@mail.com",\n  "deep": [\n    {\n      "password": "hunter2"\n    }\n  ]\n}',
        '["mia@mail.com", 2]',
        '["mia@mail.com",2]',
        '{"text":"Sm\\u00f8rrebr\\u00f8d f\\u00fcr mia@mail.com"}',
        '{"text": "Smørrebrød für mia@mail.com \\n\\t\\"ok\\""}',
        ' {"email": "mia@mail.com"}\n',
    ],
)
def test_json_keeps_its_layout(text: str) -> None:
    after = scrubbed_arguments(text)
    assert after != text
    assert json_types(json.loads(after)) == json_types(json.loads(text))
    hidden = re.compile(r"mia@mail\.com|person\d{4}@example\.com|4155550123|\d{3}55501\d\d|hunter2|[a-z]{6}\d")
    assert hidden.sub("_", after) == hidden.sub("_", text.replace("1.50", "1.5"))


def json_types(value: object) -> object:
    if isinstance(value, dict):
        return [(key, json_types(child)) for key, child in value.items()]
    if isinstance(value, list):
        return [json_types(child) for child in value]
    return type(value)


def test_json_without_sensitive_values_keeps_its_exact_text() -> None:
    text = '{ "a" :1.0,  "a": 2e5 }'
    before = draft(Step(source="tool", content=text, call_id="c"))
    assert scrub(before) is before


def test_arguments_that_are_no_json_are_searched_as_free_text() -> None:
    after = scrubbed_arguments('{"email": "mia@mail.com", "note": ')
    assert re.fullmatch(r'\{"email": "person\d{4}@example\.com", "note": ', after)
    assert "mia" not in scrubbed_arguments("--to mia@mail.com")
    assert "hunter2!" not in scrubbed_arguments('{"x": 1, password: "hunter2!"')


def test_numbers_in_sensitive_fields_stay_numbers() -> None:
    after = json.loads(
        scrubbed_arguments({"phone": 4155550123, "card": 4242424242424242, "pin": 1234, "quantity": 1234})
    )
    assert all(isinstance(value, int) for value in after.values())
    assert len({after["phone"], 4155550123}) == 2
    assert after["quantity"] == 1234
    assert after["pin"] != 1234


# --- verdicts


def test_verdicts_tell_kind_and_place_but_no_values() -> None:
    before = episode()
    after = scrub(before)
    assert after.source == before.source
    assert StageVerdict("scrub", "personal", "email: 2 places", 1) in after.verdicts
    assert StageVerdict("scrub", "secret", "key: 2 places", 3) in after.verdicts
    assert StageVerdict("scrub", "personal", "date of birth: 2 places", 1) in after.verdicts
    assert {verdict.code for verdict in after.verdicts} == {"secret", "personal"}
    details = " ".join(verdict.detail for verdict in after.verdicts)
    assert not any(value in details for value in ("Mia", "mail.com", "415", KEY))


def test_verdicts_of_other_stages_are_kept() -> None:
    before = (
        episode().with_steps(episode().steps[1:], StageVerdict("prune", "loop", "one", 2)).reject("gate", "failed", "x")
    )
    after = scrub(before)
    assert after.rejected == "failed"
    assert [verdict.stage for verdict in after.verdicts[:2]] == ["prune", "gate"]
    assert after.verdicts[2].step == 1
    assert [step.source_index for step in after.steps] == [1, 2, 3, 4, 5]


def test_scrubbing_twice_keeps_the_form_of_values() -> None:
    once = scrub(episode())
    twice = scrub(once)
    assert [mask_characters(text) for text in all_texts(twice)] == [mask_characters(text) for text in all_texts(once)]
    assert re.findall(r"person\d+@", " ".join(all_texts(twice))) == re.findall(r"person\d+@", " ".join(all_texts(once)))


def mask_characters(text: str) -> str:
    return re.sub(r"[A-Za-z]+", "a", re.sub(r"\d+", "0", text))


# --- unusual input


def test_an_empty_episode_is_not_changed() -> None:
    for before in (draft(), draft(Step(source="user")), draft(Step(source="user", content=" \n"))):
        assert scrub(before) is before


def test_sensitive_fields_with_harmless_values_are_not_changed() -> None:
    before = draft(Step(source="tool", content='{"full_name": "de la", "address": "Lima", "token": "T5"}', call_id="c"))
    assert (scrub(before).steps, scrub(before).verdicts) == (before.steps, ())


def test_texts_in_several_scripts() -> None:
    text = "我的邮箱是 wang7@mail.com，电话 +86 138 0013 8000。Меня зовут Иван, пароль: x. İstanbul ÇAĞRI ẞ"
    after = scrubbed_message(text)
    assert "wang7" not in after
    assert "138 0013 8000" not in after
    assert "٤١٥" not in scrubbed_message("my phone number is ٤١٥٥٥٥٠١٢٣")
    assert after.startswith("我的邮箱是 person")
    assert after.endswith("Меня зовут Иван, пароль: x. İstanbul ÇAĞRI ẞ")
    scrubbed = scrub(
        draft(
            Step(source="tool", content='{"customer": {"full_name": "王伟", "email": "w@mail.com"}}', call_id="c"),
            Step(source="agent", content="您好，王伟先生"),
        )
    )
    assert not occurrences("王伟", scrubbed)


def test_lone_surrogates_do_not_break_scrubbing() -> None:
    text = '{"password": "\\ud800x1!abc", "email": "a1@mail.com"}'
    assert set(json.loads(scrubbed_arguments(text))) == {"password", "email"}


def test_json_nested_too_deep_is_searched_as_free_text() -> None:
    for depth in (MAX_JSON_DEPTH, MAX_JSON_DEPTH * 100):
        text = '{"a":' * depth + '"mia@mail.com"' + "}" * depth
        after = scrubbed_arguments(text)
        assert "mia@mail.com" not in after
        assert after.count("{") == depth


@pytest.mark.parametrize(
    "text",
    [
        "x" * 1_000_000,
        "lorem ipsum 12 dolor: sit amet = 4 " * 30_000,
        "1234567890" * 100_000,
        "1 2 3 4 5 6 7 8 9 0 " * 50_000,
        "A1b2C3d4-_" * 100_000,
        "eyJ" * 330_000,
        "a@" * 500_000,
        "a." * 500_000 + "@b.com",
        "://a:" * 200_000,
        "sk-" * 330_000,
        "password: " * 100_000,
        "-----BEGIN PRIVATE KEY-----\n" * 36_000,
        "My name is " * 90_000,
        "A B " * 250_000,
        "::" * 500_000,
        "(" * 1_000_000,
        "[" * 1_000_000,
        "12 Ab " * 160_000,
        "aws key " * 125_000,
        '{"a": ["' + "x y " * 250_000 + '"]}',
    ],
    ids=lambda text: text[:12],
)
def test_a_long_text_is_scrubbed_in_seconds(text: str) -> None:
    start = time.process_time()
    scrubbed_message(text)
    assert time.process_time() - start < 8


@given(st.text(alphabet=st.characters(codec="utf-8") | st.sampled_from('@.:"{}[]0123456789+-()=/ \\'), max_size=80))
def test_any_text_can_be_scrubbed(text: str) -> None:
    after = scrub(
        draft(Step(source="user", content=text), Step(source="tool", content=f'{{"email": {text}', call_id="c"))
    )
    assert len(after.steps) == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["email", "phone", "name", "password", "zip", "x", "dob"]) | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["email", "phone", "card_number", "customer", "a"]), JSON, max_size=4))
def test_any_arguments_keep_their_types(arguments: dict[str, object]) -> None:
    arguments["to"] = "mia@mail.com"
    after = json.loads(scrubbed_arguments(arguments))
    assert after["to"] != "mia@mail.com"
    assert json_types(after) == json_types(arguments)


# --- cost


def test_importing_the_stage_imports_no_heavy_libraries() -> None:
    code = (
        "import sys; import looper.jobs.synthesis.stages.scrub;"
        "print({'torch', 'ray', 'requests', 'detect_secrets', 'phonenumbers'} & {*sys.modules} or '')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_short_episode_is_scrubbed_in_milliseconds() -> None:
    before = episode()
    scrub(before)
    start = time.process_time()
    for _ in range(50):
        scrub(before)
    assert time.process_time() - start < 50 / 100
