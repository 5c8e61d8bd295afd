"""Objects, attributes, actions and relations of sentences, and the complexity that follows from
them."""

from collections import Counter
from collections.abc import Callable

import pytest

from open_diht.filters.captions.graph import Action, CaptionGraph, build_graph, is_action_candidate
from open_diht.filters.captions.normalize import normalize

GraphOf = Callable[[str], CaptionGraph]


def complexity(graph: CaptionGraph) -> dict[str, int]:
    """Attributes, actions and relations of each object, every candidate counted."""
    counts = Counter({place: 0 for place in range(len(graph.objects))})
    counts.update(attribute.object for attribute in graph.attributes)
    counts.update(part.object for action in graph.actions for part in action.participants)
    counts.update(end for relation in graph.relations for end in (relation.source, relation.target))
    return {graph.objects[place].text: count for place, count in counts.items()}


def attributes(graph: CaptionGraph) -> set[tuple[str, str, str]]:
    return {(graph.objects[a.object].text, a.text, a.kind) for a in graph.attributes}


def parts(graph: CaptionGraph, action: Action) -> dict[str, str]:
    return {graph.objects[part.object].text: part.role for part in action.participants}


def actions(graph: CaptionGraph) -> dict[str, dict[str, str]]:
    return {action.lemma: parts(graph, action) for action in graph.actions if action.tagged}


def relations(graph: CaptionGraph) -> set[tuple[str, str, str]]:
    return {
        (graph.objects[r.source].text, r.text, graph.objects[r.target].text)
        for r in graph.relations
    }


def test_the_example_of_the_paper(graph_of):
    graph = graph_of("A black cat is chasing a small brown bird")
    assert complexity(graph) == {"bird": 3, "cat": 2}
    assert actions(graph) == {"chase": {"cat": "subject", "bird": "object"}}


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        (
            "flowers painted on a wall by a girl",
            {"paint": {"flowers": "subject", "wall": "on", "girl": "agent"}},
        ),
        ("child sitting on a bench", {"sit": {"child": "subject", "bench": "on"}}),
        ("a dog running", {"run": {"dog": "subject"}}),
        ("a dog that runs", {"run": {"dog": "subject"}}),
        ("a tall woman who is waiting", {"wait": {"woman": "subject"}}),
        ("He can swim", {"swim": {"He": "subject"}}),
        ("a boy eats and a girl drinks", {"eat": {"boy": "subject"}, "drink": {"girl": "subject"}}),
        (
            "a man throwing and catching a ball",
            {"throw": {"man": "subject"}, "catch": {"man": "subject", "ball": "object"}},
        ),
        (
            "three children playing football in the park",
            {"play": {"children": "subject", "football": "object", "park": "in"}},
        ),
        ("A man is being chased by a dog", {"chase": {"man": "subject", "dog": "agent"}}),
        ("The flowers were painted by a girl", {"paint": {"flowers": "subject", "girl": "agent"}}),
    ],
)
def test_actions_and_their_participants(graph_of, sentence, expected):
    assert actions(graph_of(sentence)) == expected


def test_an_ing_form_in_the_guise_of_a_noun_is_an_untagged_candidate(graph_of):
    (action,) = graph_of("Bride and groom dancing").actions
    assert (action.verb, action.lemma, action.tagged) == ("dancing", "dance", False)


@pytest.mark.parametrize(
    "sentence",
    [
        "the sky is blue", "She had been a teacher", "Cats are black", "she's a doctor", "two dogs",
        "a cup on the table", "",
    ],
)  # fmt: skip
def test_copula_and_noun_phrases_state_no_action(graph_of, sentence):
    assert not graph_of(sentence).actions


@pytest.mark.parametrize(
    "sentence", ["a woman who has been waiting", "the dog is not barking", "The boy was seen"]
)
def test_auxiliaries_are_no_actions(graph_of, sentence):
    graph = graph_of(sentence)
    assert [action.verb for action in graph.actions] == [graph.parse.words[graph.actions[0].token]]
    assert graph.actions[0].verb in ("waiting", "barking", "seen")


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a red and white car", {("car", "red", "colour"), ("car", "white", "colour")}),
        ("the sky is blue", {("sky", "blue", "predicate")}),
        ("Cats are black", {("Cats", "black", "predicate")}),  # the subject is the first word
        (
            "Kids are happy and tired",
            {("Kids", "happy", "predicate"), ("Kids", "tired", "predicate")},
        ),
        ("two dogs", {("dogs", "two", "number")}),
        (
            "the old red wooden door",
            {("door", "old", "state"), ("door", "red", "colour"), ("door", "wooden", "material")},
        ),
        ("a beautiful day", {("day", "beautiful", "adjective")}),
        ("Running Shoes", {("Shoes", "Running", "participle")}),
        ("a dog", set()),
        ("my dog", set()),
    ],
)
def test_attributes(graph_of, sentence, expected):
    assert attributes(graph_of(sentence)) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a cup on the table near a window", {("cup", "on", "table"), ("cup", "near", "window")}),
        ("the girl's red dress", {("dress", "of", "girl")}),
        ("a cat's small toy mouse", {("toy mouse", "of", "cat")}),
        ("a bird with blue feathers", {("bird", "with", "feathers")}), ("her dog", set()),
        ("a dog and a cat", set()),
    ],
)  # fmt: skip
def test_relations(graph_of, sentence, expected):
    assert relations(graph_of(sentence)) == expected


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("a dining table with a lamp", [("dining table", "noun"), ("lamp", "noun")]),
        ("she is a doctor", [("she", "pronoun"), ("doctor", "noun")]),
        ("a dog in Paris", [("dog", "noun"), ("Paris", "name")]), ("running", []), ("", []),
    ],
)  # fmt: skip
def test_objects(graph_of, sentence, expected):
    assert [(thing.text, thing.kind) for thing in graph_of(sentence).objects] == expected


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Elegant Wedding Card", ("Elegant", "titled")),
        ("Chicago Bulls Youth Red Cap", ("Youth", "titled")),
        ("Cat Toy - Blue", ("Blue", "listed")), ("Hood - Pink", ("Pink", "listed")),
        ("Grilled Cheese Bun", ("Grilled", "titled")),
        (": Dining Chair Ideas Rustic", ("Rustic", "listed")),
        ("Jeans (stone washed)", ("washed", "listed")), ("Olive Oil 500ml", ("500ml", "listed")),
    ],
)  # fmt: skip
def test_words_that_describe_inside_a_name_or_beside_it(graph_of, caption, expected):
    assert expected in {(text, kind) for _, text, kind in attributes(graph_of(normalize(caption)))}


@pytest.mark.parametrize(
    "caption",
    ["Nike Air Max 90", "John Smith", "Toyota Corolla 2014", "Coffee mug", "Paris, France"],
)
def test_names_and_compounds_describe_nothing(graph_of, caption):
    assert not {kind for _, _, kind in attributes(graph_of(normalize(caption)))} & {"titled"}


@pytest.mark.parametrize(
    ("caption", "verb"),
    [
        ("Federer wins match", "wins"), ("Kid climbs on sofa", "climbs"),
        ("nursing newborn", "nursing"), ("boiling rice in a pot", "boiling"),
        ("Rescuers help flood victims", "help"),
    ],
)  # fmt: skip
def test_verbs_that_taggers_take_for_nouns_are_candidates(graph_of, caption, verb):
    assert verb in {action.verb for action in graph_of(normalize(caption)).actions}


def assert_well_formed(graph: CaptionGraph) -> None:
    text = graph.parse.text
    words = graph.parse.words
    count = len(graph.objects)
    for place, thing in enumerate(graph.objects):
        assert text[thing.start : thing.end] == thing.text and thing.text.endswith(
            words[thing.token]
        )
        # What only a listed word made an object is not there.
        assert graph.object_at.get(thing.token, place) == place
    for action in graph.actions:
        assert text[action.start : action.end] == action.verb == words[action.token]
        assert is_action_candidate(graph.parse, action.token)
        places = [part.object for part in action.participants]
        assert places == sorted(set(places)) and all(0 <= place < count for place in places)
    for attribute in graph.attributes:
        assert 0 <= attribute.object < count and attribute.text == words[attribute.token]
        assert (
            attribute.kind == "listed" or attribute.token != graph.objects[attribute.object].token
        )
    for relation in graph.relations:
        assert (
            0 <= relation.source < count
            and 0 <= relation.target < count
            and relation.source != relation.target
        )


def test_odd_texts_give_well_formed_graphs(graph_of, odd_texts):
    for text in odd_texts:
        assert_well_formed(graph_of(text))


def test_real_captions_give_well_formed_graphs(parser, laion):
    for parse in parser.parse([normalize(caption) for caption in laion[:2_000]]):
        assert_well_formed(build_graph(parse))
