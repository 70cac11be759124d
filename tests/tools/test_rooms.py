"""The drawing of who imports whom is of the code as it is."""

from tools import rooms


def test_the_picture_and_the_list_are_up_to_date():
    assert (rooms.PROJECT / rooms.PICTURE).read_text() == rooms.picture(), "make rooms"
    text = (rooms.PROJECT / rooms.PAGE).read_text()
    assert text == rooms.page(text), "make rooms"


def test_an_arrow_is_drawn_for_imports_inside_functions_too():
    assert {("hrf_pipelines.cli", "hrf_pipelines.local"), ("hrf_components", "hrf.steps")} <= rooms.arrows()


def test_no_arrow_goes_up():
    assert not rooms.upwards(rooms.rooms(), rooms.arrows())


def test_what_is_upwards_is_told_by_the_order_of_the_layers():
    assert rooms.upwards(["top", "middle", "low"], {("top", "low"), ("low", "middle")}) == {("low", "middle")}
