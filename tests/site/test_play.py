"""The pages that can be touched: their mathematics against the package, and what a reader does with
them, in a real browser.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import guided_diffusion_edu as gde
from browsing import SITE
from guided_diffusion_edu.guidance import error_law, exact_guidance, second_order_step
from guided_diffusion_edu.mixtures import four_corners, two_trees

PAGES = ["nbs/play/exact_world.html", "nbs/play/taylor.html", "nbs/play/digits.html"]
WORLDS = {"fourCorners": four_corners(), "twoTrees": two_trees()}
SCHEDULE = gde.linear_schedule()


@pytest.fixture(scope="module", autouse=True)
def patience(reader):
    reader.page.set_default_timeout(180_000)  # for busy machines


@pytest.fixture(scope="module")
def maths(reader):
    "Evaluate JavaScript on a page that has the pages' mathematics."
    return reader.open(PAGES[0]).evaluate


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def points(n, seed, spread=1.0):
    return spread * torch.randn(
        n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


# ---- the exact world ----


@pytest.mark.parametrize("steps", [5, 10, 25, 50, 100, 250])
def test_schedule(maths, steps):
    found, wanted = (
        maths(
            """n => { const s = gde.respace(gde.linearSchedule(), n);
            return [Array.from(s.alphaBars), s.timesteps]; }""",
            steps,
        ),
        gde.respace(SCHEDULE, steps),
    )
    assert found[1] == wanted.timesteps.tolist()
    assert torch.allclose(tensor(found[0]), wanted.alpha_bars, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("alpha_bar", [1.0, 0.97, 0.5, 0.01])
def test_scores(maths, name, alpha_bar):
    """Score, gradient of the class's logarithm and posterior at 300 points, to seven digits (the
    package has its corners at 0.7 in single precision).
    """
    world, x = WORLDS[name].at(alpha_bar), points(300, seed=1, spread=0.9)
    for y in (0, 1):
        found = maths(
            """([name, alphaBar, x, y]) => Object.fromEntries(Object.entries(
            gde.exact(gde[name](), alphaBar, Float64Array.from(x), y))
            .map(([k, v]) => [k, Array.from(v)]))""",
            [name, alpha_bar, x.flatten().tolist(), y],
        )
        label = torch.full((300,), y)
        score = world.score(x)
        for ours, wanted in (
            (tensor(found["score"]).view(-1, 2), score),
            (tensor(found["gradient"]).view(-1, 2), world.score(x, label) - score),
            (tensor(found["posterior"]), world.class_log_probs(x)[:, y].exp()),
        ):
            assert torch.allclose(
                ours, wanted, rtol=1e-7, atol=2e-8 * max(1, score.abs().max().item())
            )


@pytest.mark.parametrize("name", WORLDS)
def test_target(maths, name):
    """The density behind the particles, p(x) p(y | x)^s, normalised, and the share of it that lies
    in the right class.
    """
    found = maths(
        """([name, y, s]) => {
        const {target, right} = gde.tiltedTarget(gde.classDensities(gde[name](), 240, 2), y, s);
        return [Array.from(target), right]; }""",
        [name, 1, 2.5],
    )
    side = (torch.arange(240, dtype=torch.float64) + 0.5) * 4 / 240 - 2
    grid = torch.stack([side.repeat(240), side.repeat_interleave(240)], -1)  # rows from low y
    classes = WORLDS[name].class_log_probs(grid)
    wanted = (WORLDS[name].log_prob(grid) + 2.5 * classes[:, 1]).exp()
    wanted = wanted / wanted.sum()
    assert (tensor(found[0]) - wanted).abs().sum() < 1e-6
    assert abs(found[1] - wanted[classes[:, 1] > classes[:, 0]].sum()) < 1e-6


WALKS = {
    "ddpm": (gde.ddpm_sample, {}),
    "ddpmMean": (gde.ddpm_sample, dict(gradient_at="mean")),
    "ddim": (gde.ddim_sample, {}),
    "ddim eta": (gde.ddim_sample, dict(eta=0.6)),
}


@pytest.mark.parametrize("name", WALKS)
@pytest.mark.parametrize("scale", [0.0, 1.0, 4.0])
def test_samplers(maths, name, scale):
    "A whole chain from the same noises, point by point, to 1e-6."
    sampler, options = WALKS[name]
    steps, world, n = gde.respace(SCHEDULE, 10), WORLDS["fourCorners"], 40
    noises = [
        torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(100 + i))
        for i in range(11)
    ]
    y = torch.zeros(n, dtype=torch.long)
    drawn = iter(noises[1:])
    original = gde.samplers.noise_like
    gde.samplers.noise_like = lambda x, generator: next(drawn)
    try:
        wanted = sampler(
            world.denoiser(SCHEDULE),
            steps,
            (n, 2),
            guidance=exact_guidance(world, SCHEDULE, y, scale),
            x_T=noises[0],
            clip=False,
            **options,
        )
    finally:
        gde.samplers.noise_like = original
    found = maths(
        """([sampler, scale, eta, noises]) => {
        const steps = gde.respace(gde.linearSchedule(), 10);
        const predict = gde.exactPrediction(gde.fourCorners(), steps, 0, scale);
        let x = Float64Array.from(noises[0]);
        for (let i = 9; i >= 0; i--) {
            let next = 0;
            const normal = () => noises[10 - i][next++];
            x = gde.answer(gde.samplers[sampler](x, i, {steps, eta, normal}), predict).x;
        }
        return Array.from(x);
    }""",
        [name.split()[0], scale, options.get("eta", 0), [z.flatten().tolist() for z in noises]],
    )
    assert torch.allclose(tensor(found).view(n, 2), wanted, rtol=0, atol=1e-6)


def test_total_variation_and_its_floor(maths):
    """Against NumPy's histogram; and exact samples of the package lie at the floor that the page
    draws.
    """
    x = WORLDS["fourCorners"].sample(4000, 0, torch.Generator().manual_seed(3))
    x[:5] += 10  # off the grid
    ours, floor, cells = maths(
        """x => {
        const densities = gde.classDensities(gde.fourCorners(), 480, 2);
        const cells = gde.coarser(gde.tiltedTarget(densities, 0, 1).target, 24);
        return [gde.totalVariation(Float64Array.from(x), cells, 2),
                gde.noiseFloor(cells, 4000, gde.random(7), 40), Array.from(cells)]; }""",
        x.flatten().tolist(),
    )
    share = np.histogram2d(x[:, 1], x[:, 0], bins=24, range=[[-2, 2], [-2, 2]])[0].flatten() / 4000
    assert abs(ours - 0.5 * (np.abs(share - cells).sum() + 5 / 4000)) < 1e-12
    assert abs(ours - floor) < 0.006


def test_normals(maths):
    z = tensor(
        maths("() => { const r = gde.random(5); return Array.from({length: 100000}, r.normal); }")
    )
    assert (
        abs(z.mean()) < 0.015
        and abs(z.std() - 1) < 0.01
        and abs((z**4).mean() - 3) < 0.15
        and abs((z[1:] * z[:-1]).mean()) < 0.015
    )


def ended(page, **choices):
    """Choose, play to the end (at once, as motion is to be reduced), and say how far off the
    particles are.
    """
    return page.evaluate(
        """choices => {
        for (const [part, value] of Object.entries(choices)) gde.world.change(part, value);
        gde.world.play();
        const {walk, exact} = gde.world;
        return {error: walk.errors.at(-1), right: walk.right, floor: exact.floor,
                exact: exact.right, left: walk.i + 1}; }""",
        choices,
    )


def test_the_share_of_the_right_class_is_the_package_s(reader):
    page, world, n = reader.open(PAGES[0]), WORLDS["fourCorners"], 4000
    y, g = torch.zeros(n, dtype=torch.long), torch.Generator().manual_seed(0)
    for sampler, (sample, options), steps in (
        ("ddim", WALKS["ddim"], 25),
        ("ddpm", WALKS["ddpm"], 10),
        ("ddpmMean", WALKS["ddpmMean"], 10),
    ):
        x_T = torch.randn(n, 2, dtype=torch.float64, generator=g)
        x_0 = sample(
            world.denoiser(SCHEDULE),
            gde.respace(SCHEDULE, steps),
            (n, 2),
            guidance=exact_guidance(world, SCHEDULE, y),
            x_T=x_T,
            clip=False,
            generator=g,
            **options,
        )
        wanted = (world.class_log_probs(x_0)[:, 0] > math.log(0.5)).double().mean().item()
        found = ended(page, world="corners", y=0, scale=1, steps=steps, sampler=sampler)
        assert found["left"] == 0 and abs(found["right"] - wanted) < 4 * (2 * 0.25 / n) ** 0.5, (
            sampler
        )


def test_what_the_page_on_the_exact_world_says(reader):
    "Its list of things to try, one by one."
    page = reader.open(PAGES[0])
    few = {
        sampler: ended(page, steps=10, scale=1, sampler=sampler)
        for sampler in ("ddpm", "ddpmMean", "ddim")
    }
    wrong = {sampler: 1 - run["right"] for sampler, run in few.items()}
    assert (
        wrong["ddpm"] > 1 / 3 and wrong["ddpmMean"] < 0.5 * wrong["ddpm"] and wrong["ddim"] < 0.05
    )
    many = {sampler: ended(page, steps=250, scale=1, sampler=sampler) for sampler in few}
    assert all(run["error"] < run["floor"] + 0.02 for run in many.values())
    large = {
        sampler: ended(page, steps=250, scale=4, sampler=sampler) for sampler in ("ddpm", "ddim")
    }
    assert all(run["right"] > 0.9995 for run in large.values())
    assert large["ddim"]["error"] > 2 * large["ddpm"]["error"] > 4 * large["ddpm"]["floor"]
    noisy = ended(page, eta=1, sampler="ddim")
    assert abs(noisy["error"] - large["ddpm"]["error"]) < 0.03
    trees = ended(page, world="trees", steps=50, scale=1, sampler="ddpm")
    assert 0.1 < 1 - trees["right"] < 0.4


# ---- the Taylor proof ----

STATES = [
    dict(mu=0.2, sigma=0.5, k=8, s=1),
    dict(mu=-0.6, sigma=0.1, k=20, s=4),
    dict(mu=0.0, sigma=0.8, k=24, s=8),
    dict(mu=0.9, sigma=0.02, k=3, s=2.5),
]


@pytest.mark.parametrize("state", STATES, ids=str)
def test_taylor(maths, state):
    "Derivatives by autograd, Gaussians and law by the package, distances by SciPy's quadrature."
    found = maths(
        """state => [gde.derivatives(state), gde.steps(state), gde.distances(state),
                     gde.errorLaw(state)]""",
        state,
    )
    mu, sigma, k, s = (state[name] for name in ("mu", "sigma", "k", "s"))
    x, derivatives = tensor(mu).requires_grad_(), []
    value = s * torch.nn.functional.logsigmoid(k * x)
    for _ in range(3):
        (value,) = torch.autograd.grad(value, x, create_graph=True)
        derivatives.append(value.item())
    assert np.allclose(found[0], derivatives, rtol=1e-8)
    g, H, T = derivatives
    mean, covariance = second_order_step(
        *(tensor(v) for v in ([[mu]], [[[sigma**2]]], [[g]], [[[H]]]))
    )
    laws = [
        (mu, sigma**2),
        (gde.guided_mean(mu, sigma**2, g), sigma**2),
        (mean.item(), covariance.item()),
    ]
    assert np.allclose(found[1], laws, rtol=1e-9)
    assert np.allclose(found[3], error_law(sigma**2, g, H, T), rtol=1e-8)

    def log_normal(x, mean, variance):
        return -0.5 * ((x - mean) ** 2 / variance + math.log(2 * math.pi * variance))

    def log_product(x):
        return log_normal(x, mu, sigma**2) - s * np.logaddexp(0, -k * x)

    limits = mu - 9 * sigma, max(m for m, _ in laws) + 9 * sigma
    exact = dict(limit=400, epsabs=1e-12, epsrel=1e-9, points=[m for m, _ in laws])
    most = max(log_product(x) for x in np.linspace(*limits, 2001))
    Z = most + math.log(quad(lambda x: math.exp(log_product(x) - most), *limits, **exact)[0])
    for (variation, divergence), (m, v) in zip(found[2], laws):
        assert variation == pytest.approx(
            0.5
            * quad(
                lambda x: abs(math.exp(log_product(x) - Z) - math.exp(log_normal(x, m, v))),
                *limits,
                **exact,
            )[0],
            rel=1e-3,
            abs=1e-7,
        )
        assert divergence == pytest.approx(
            quad(
                lambda x: math.exp(log_product(x) - Z) * (log_product(x) - Z - log_normal(x, m, v)),
                *limits,
                **exact,
            )[0],
            rel=1e-3,
            abs=1e-7,
        )


def test_what_the_page_on_the_proof_says(maths):
    def tv(**state):
        return [pair[0] for pair in maths("state => gde.distances(state)", STATES[0] | state)]

    for k, slope in enumerate((0.5, 1.0, 1.5)):  # against sigma twice that
        assert math.log(tv(sigma=0.02)[k] / tv(sigma=0.01)[k], 4) == pytest.approx(slope, abs=0.03)
    assert tv(sigma=0.1, s=1)[1] < 0.03 and tv(sigma=0.1, s=8)[1] > 4 * tv(sigma=0.1, s=1)[1]
    assert tv(k=1)[1] < 0.03 < tv(k=8)[1]
    assert max(tv(mu=1.0, sigma=0.1)) < 0.001
    start = maths("state => gde.distances(state)", STATES[0])
    assert start[2][1] > start[1][1]  # second order, worse by the divergence


def test_handles_can_be_dragged_and_sliders_moved(reader):
    page = reader.open(PAGES[1], height=1000)
    before = page.evaluate("({...gde.taylor.state})")
    for part, colour, by in (
        ("mu", "#0072B2", 60),
        ("sigma", "#009E73", -40),
        ("k", "#D55E00", 20),
        ("s", "#CC79A7", 50),
    ):
        box = page.locator(f'.gde-handle[fill="{colour}"]').bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + by, y, steps=4)
        page.mouse.up()
        after = page.evaluate("({...gde.taylor.state})")
        assert {name for name in after if after[name] != before[name]} == {part}
        before = after
    slider = page.get_by_label("Scale s")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("gde.taylor.state.s") == pytest.approx(before["s"] - 0.1)
    assert float(slider.input_value()) == pytest.approx(before["s"] - 0.1)


# ---- the network ----


def test_a_chain_in_the_browser_equals_torch(reader):
    """DDIM and both DDPMs' deterministic part: x_0 from the same noise, 25 steps at scale 3, to
    2e-3; and nothing is loaded unasked.
    """
    asked = []
    page = reader.page
    page.on("request", lambda request: asked.append(request.url))
    reader.open(PAGES[2])
    assert not any("wasm" in url or "digits-model" in url for url in asked)
    digits, y = gde.load_pretrained("digits"), torch.arange(10)
    x_T = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    guidance = gde.classifier_guidance(digits.classifier, y, scale=3.0)
    wanted = gde.ddim_sample(
        digits.model, gde.respace(digits.schedule, 25), x_T.shape, guidance=guidance, x_T=x_T
    )
    found = page.evaluate(
        'x_T => gde.digits.chain({y: "each", scale: 3, steps: 25, sampler: "ddim"}, x_T)',
        x_T.flatten().tolist(),
    )
    assert (torch.tensor(found).view(10, 1, 8, 8) - wanted).abs().max() < 2e-3
    assert any("wasm" in url for url in asked) and not reader.complaints


def test_digits_are_drawn_by_keyboard(reader):
    page = reader.open(PAGES[2])
    page.get_by_role("button", name="Load the network").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Draw").wait_for()
    page.keyboard.press("Enter")  # it has the focus
    page.wait_for_function(
        "gde.digits.walk.i < 0 && "
        '!document.querySelector(".gde-first").textContent.includes("Pause")'
    )
    assert page.evaluate("Math.min(...gde.digits.walk.seen.at(-1).opinion)") > 0.9
    drawn = page.evaluate('document.querySelectorAll(".gde-grid canvas")[3].toDataURL()')
    page.get_by_label("Look back").focus()
    page.keyboard.press("Home")
    assert page.evaluate('document.querySelectorAll(".gde-grid canvas")[3].toDataURL()') != drawn
    page.get_by_label("Wanted digit").focus()
    page.keyboard.press("7")
    page.wait_for_function("gde.digits.walk.y.every(y => y === 7)")
    assert not reader.complaints


def test_the_classifier_decides(reader):
    "From the same noise: without guidance any digit comes; with it the one that was wanted."
    page = reader.open(PAGES[2])

    def certainty(scale):
        page.evaluate(
            'scale => gde.digits.chain({y: "7", steps: 25, sampler: "ddim", seed: 3, scale})', scale
        )
        return page.evaluate("gde.digits.walk.seen.at(-1).opinion.reduce((a, b) => a + b) / 10")

    assert certainty(0) < 0.6 and certainty(3) > 0.9


# ---- for every reader ----


def test_the_exact_world_by_keyboard(reader):
    page = reader.open(PAGES[0])
    assert page.evaluate("gde.world.walk.i") == 24  # no motion was asked for, and none has begun
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert page.evaluate("gde.world.walk.i") == 23  # Step
    page.get_by_label("Scale s").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("[gde.world.chosen.scale, gde.world.walk.i]") == [1.25, 24]
    page.get_by_label("Sampler").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function('gde.world.chosen.sampler === "ddpmMean"')
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("gde.world.walk.i") == -1
    page.wait_for_function(
        'document.querySelector("[aria-live]").textContent'
        '.startsWith("25 of 25 steps. Total variation 0.")'
    )
    assert "DDPM at mean, 25 steps, s = 1.25" in page.inner_text(".gde-play table")


@pytest.mark.parametrize("path", PAGES)
def test_every_control_has_a_name(reader, path):
    page = reader.open(path)
    if "digits" in path:
        page.get_by_role("button", name="Load the network").click()
        page.get_by_role("button", name="Draw").wait_for()
    for control in page.locator(".gde-play :is(input, select, button)").all():
        assert control.evaluate("c => (c.labels && c.labels[0] || c).textContent.trim()")


def test_it_plays_by_itself_only_where_motion_is_welcome(browser, site):
    page = browser.new_page()
    page.set_default_timeout(180_000)
    page.goto(f"{site}/{PAGES[0]}")
    page.wait_for_function("gde.world.walk.i < 24")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").wait_for()
    page.close()


@pytest.mark.parametrize("path", PAGES)
def test_from_a_folder(browser, path):
    "Opened as a file: no complaint, nothing asked for that is not beside it, and it works."
    page, complaints = browser.new_page(reduced_motion="reduce"), []
    page.set_default_timeout(180_000)
    page.on(
        "console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda r: (
            None if r.url.startswith(("file:", "data:", "blob:")) else complaints.append(r.url)
        ),
    )
    page.goto((SITE / path).as_uri())
    page.locator(".gde-play :is(canvas, svg, button)").first.wait_for()
    if "digits" in path:
        assert len(page.evaluate("gde.digits.chain({steps: 10})")) == 640
    assert not complaints
    page.close()


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390, 320])
def test_no_sideways_scroll(reader, path, theme, width):
    page = reader.open(path)
    reader.show(width, theme)
    if "digits" in path:
        page.get_by_role("button", name="Load the network").click()
        page.get_by_role("button", name="Draw").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert not reader.complaints


def test_the_picture_follows_the_theme_while_it_is_open(reader):
    page = reader.open(PAGES[0])
    light = page.evaluate('document.querySelector(".gde-picture canvas").toDataURL()')
    page.evaluate('document.documentElement.dataset.theme = "dark"')
    page.wait_for_function(
        'light => document.querySelector(".gde-picture canvas").toDataURL() !== light', arg=light
    )


@pytest.mark.parametrize("path", PAGES)
def test_a_still_picture_where_scripts_are_off(browser, site, path):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_default_timeout(180_000)
    page.goto(f"{site}/{path}")
    still = page.locator(".gde-play img")
    assert (
        still.is_visible()
        and still.bounding_box()["width"] > 300
        and len(still.get_attribute("alt")) > 60
    )
    context.close()


def test_scripts_are_on_these_pages_only():
    with_scripts = {
        str(p.relative_to(SITE)) for p in SITE.rglob("*.html") if "play/maths.js" in p.read_text()
    }
    assert with_scripts == set(PAGES)
