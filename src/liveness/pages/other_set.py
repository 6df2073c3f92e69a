from liveness.base.files import workspace


def write_on_page(found):
    return workspace() / "x.html"
