"""Made tables with fixed seeds, like those of everyday work: curved effects, interactions, noise, and dirt. And a sample of flights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tables.sources import flights as source

Array = NDArray[np.float64]
SURVEY_LABEL = "würden Sie uns empfehlen? (ja/nein)"


def _chance(raw: Array) -> Array:
    return 1 / (1 + np.exp(-raw))


def _blank(rng: np.random.Generator, table: pd.DataFrame, shares: dict[str, float]) -> pd.DataFrame:
    for column, share in shares.items():
        table.loc[rng.random(len(table)) < share, column] = None
    return table


def flights() -> pd.DataFrame:
    """20,000 flights of January to June 2013 as known at scheduled departure, with weather, plane and traffic columns."""
    lookups = {name: source.lookup(name)[0] for name in source.LOOKUP_RULES}
    parts = source.partitions(source.with_clock(source.read_csv("flights.csv.zip")), range(1, 7))
    table = pd.concat([source.features(part, lookups).to_pandas() for part in parts])
    after = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "double_booked", "odd_distance"]
    known = table[table["late"].notna()].drop(columns=after)
    known["late"] = known["late"].astype(bool)
    return known.sample(20_000, random_state=0).sort_values(["time_hour", "flight"])


def churn(customers: int = 1_500) -> pd.DataFrame:
    """Monthly rows of each customer; whether the customer left is the same on each of them."""
    rng = np.random.default_rng(10)
    months = rng.integers(2, 9, customers)
    tenure, age = rng.gamma(2, 15, customers), rng.normal(45, 15, customers).clip(18, 90)
    plan = rng.choice(["basic", "plus", "family", "business"], customers, p=[0.45, 0.3, 0.2, 0.05])
    pays = rng.choice(["card", "transfer", "cheque"], customers, p=[0.5, 0.35, 0.15])
    base = rng.normal(0, 1, customers)
    raw = -0.9 - 0.03 * tenure + 0.9 * (pays == "cheque") + 0.8 * ((plan == "basic") & (age < 35)) - 0.9 * base
    left = rng.random(customers) < _chance(raw + rng.normal(0, 0.5, customers))
    who = np.repeat(np.arange(customers), months)
    nth = np.concatenate([np.arange(count) for count in months])
    table = pd.DataFrame(
        {
            "customer_id": [f"C{100_000 + 37 * each}" for each in who],
            "month_no": nth + 1,
            "age": age[who].round(),
            "tenure_months": (tenure[who] + nth).round(),
            "plan": plan[who],
            "payment": pays[who],
            "minutes": np.exp(5 + 0.4 * base[who] + rng.normal(0, 0.5, len(who))).round(1),
            "support_calls": rng.poisson(np.exp(0.3 - 0.5 * base[who] + 0.4 * left[who])),
            "bill": (20 + 15 * (plan[who] == "business") + rng.gamma(2, 8, len(who))).round(2),
            "churned": np.where(left[who], "yes", "no"),
        }
    )
    return _blank(rng, table, {"age": 0.05, "bill": 0.02}).sample(frac=1, random_state=1)


def credit(rows: int = 4_000) -> pd.DataFrame:
    """Every column writes its missing values in its own way; the file adds `?` for the rest."""
    rng = np.random.default_rng(11)
    income, age = np.exp(rng.normal(10.3, 0.6, rows)), rng.normal(42, 13, rows).clip(19, 85)
    amount, months = np.exp(rng.normal(8.3, 0.8, rows)), rng.choice([12, 24, 36, 48, 60], rows)
    home = rng.choice(["own", "rent", "with parents"], rows, p=[0.5, 0.4, 0.1])
    job = rng.choice(["clerk", "worker", "manager", "self-employed", "retired"], rows)
    cards, late = rng.poisson(1.5, rows), rng.poisson(0.4, rows)
    burden = amount / months / (income / 12)
    raw = -2.2 + 6 * np.minimum(burden, 0.6) + 0.7 * np.minimum(late, 4) - 0.02 * (age - 42) + 0.5 * (home == "rent")
    raw += 0.8 * ((job == "self-employed") & (income < 25_000)) + rng.normal(0, 0.4, rows)
    table = pd.DataFrame(
        {
            "application": 700_001 + np.arange(rows),
            "age": age.round(),
            "yearly_income": income.round(),
            "amount": amount.round(),
            "months": months,
            "home": home,
            "job": job,
            "cards": cards,
            "late_payments": late,
            "savings": np.exp(rng.normal(7, 1.5, rows)).round().astype(int).astype(str),
            "default": np.where(rng.random(rows) < _chance(raw), "bad", "good"),
        }
    ).astype({"job": object, "home": object, "savings": object})
    table.loc[rng.random(rows) < 0.15, "savings"] = "none"
    table.loc[rng.random(rows) < 0.08, "job"] = "NA"
    return _blank(rng, table, {"yearly_income": 0.1, "home": 0.03, "late_payments": 0.05})


def fraud(rows: int = 25_000) -> pd.DataFrame:
    rng = np.random.default_rng(12)
    amount, hour = np.exp(rng.normal(3.4, 1.2, rows)), rng.integers(0, 24, rows)
    kind = rng.choice(["grocery", "fuel", "travel", "electronics", "online", "cash"], rows, p=[0.35, 0.2, 0.08, 0.1, 0.22, 0.05])
    abroad, tries = rng.random(rows) < 0.06, rng.poisson(0.2, rows)
    far = rng.gamma(1.2, 20, rows) * np.where(abroad, 30, 1)
    usual = amount / np.exp(rng.normal(3.4, 0.8, rows))
    night = (hour < 5).astype(float)
    raw = -6.5 + 0.8 * np.log(usual + 0.1) + 1.6 * night * (kind == "online") + 1.3 * abroad + 0.9 * tries
    raw += 1.2 * (kind == "electronics") * (usual > 3) + 0.7 * (kind == "cash") + 0.3 * np.log1p(far)
    return pd.DataFrame(
        {
            "transaction_id": rng.permutation(rows) + 5_000_000,
            "amount": amount.round(2),
            "hour": hour,
            "merchant_kind": kind,
            "abroad": abroad,
            "failed_tries": tries,
            "km_from_home": far.round(1),
            "times_usual_amount": usual.round(3),
            "is_fraud": (rng.random(rows) < _chance(raw)).astype(int),
        }
    )


def prices(rows: int = 6_000) -> pd.DataFrame:
    rng = np.random.default_rng(13)
    area, year = np.exp(rng.normal(4.6, 0.4, rows)), rng.integers(1900, 2024, rows)
    places = [
        f"{first}{last}"
        for first in ("North", "South", "Old", "New", "Upper")
        for last in ("field", "ham", "bridge", "ton", "wick", "ford")
    ]
    worth = rng.normal(0, 0.35, len(places))
    place = rng.choice(len(places), rows, p=rng.dirichlet(np.ones(len(places)) * 2))
    kind = rng.choice(["flat", "terrace", "semi", "detached"], rows, p=[0.4, 0.3, 0.2, 0.1])
    garden = np.where(kind == "flat", 0, rng.gamma(1.5, 120, rows))
    log = 8 + 0.85 * np.log(area) + worth[place] + 0.3 * (kind == "detached") + 0.0002 * garden + 0.15 * (year > 2000)
    log += 0.2 * ((year < 1920) & (worth[place] > 0.2)) + rng.normal(0, 0.18, rows)
    table = pd.DataFrame(
        {
            "area_m2": area.round(1),
            "built": year,
            "place": np.array(places, object)[place],
            "kind": kind,
            "garden_m2": garden.round(),
            "bathrooms": 1 + rng.binomial(3, 0.25, rows),
            "lift": rng.random(rows) < 0.3,
            "price": (np.exp(log) / 100).round() * 100,
        }
    )
    return _blank(rng, table, {"garden_m2": 0.1, "built": 0.04})


def sensors(hours: int = 6_000) -> pd.DataFrame:
    """One building, hour by hour: a daily and weekly rhythm, weather, and a load that remembers."""
    rng = np.random.default_rng(14)
    when = pd.date_range("2023-01-01", periods=hours, freq="h")
    outside = 10 - 9 * np.cos(2 * np.pi * np.arange(hours) / 8766) + 4 * np.sin(2 * np.pi * (when.hour - 9) / 24)
    outside = np.asarray(outside) + pd.Series(rng.normal(0, 1, hours)).ewm(halflife=12).mean().to_numpy() * 5
    busy = np.asarray((when.hour >= 8) & (when.hour < 18) & (when.dayofweek < 5), float)
    load = 40 + 30 * busy + 1.5 * np.maximum(outside - 20, 0) * (1 + busy) + 1.2 * np.maximum(12 - outside, 0)
    load = load + pd.Series(rng.normal(0, 6, hours)).ewm(halflife=2).mean().to_numpy() * 2
    table = pd.DataFrame(
        {
            "recorded_at": when.strftime("%Y-%m-%d %H:%M:%S"),
            "outside_temp": outside.round(1),
            "humidity": (60 - outside + rng.normal(0, 8, hours)).clip(5, 100).round(),
            "load": load.round(2),
            "load_day_before": np.r_[np.full(23, np.nan), load[: hours - 23]].round(2),
            "meter": rng.choice(["M-1", "M-2"], hours),
            "next_load": np.r_[load[1:], load[-1]].round(2),
        }
    )
    return _blank(rng, table, {"outside_temp": 0.02, "humidity": 0.05})


def retail(rows: int = 20_000) -> pd.DataFrame:
    rng = np.random.default_rng(15)
    words = ("shirt", "trousers", "dress", "shoes", "jacket", "scarf", "belt", "hat")
    names = np.array([f"{word} {letter}{number:03d}" for word in words for letter in "ABCDE" for number in range(75)], object)
    cities = np.array([f"{first}{last}" for first in _syllables(rng, 30) for last in _syllables(rng, 40)], object)
    popular = rng.zipf(1.3, len(names)).clip(1, 400).astype(float)
    item = rng.choice(len(names), rows, p=popular / popular.sum())
    city = (rng.pareto(1.1, rows) * 8).astype(int) % len(cities)
    liked, moody = rng.normal(0, 0.8, len(names)), rng.normal(0, 0.3, len(cities))
    price, size = np.exp(rng.normal(3.5, 0.5, rows)), rng.choice(["XS", "S", "M", "L", "XL"], rows)
    shoes = np.array([name.startswith(("shoes", "dress")) for name in names])[item]
    raw = -1.2 + liked[item] + moody[city] + 0.9 * shoes + 0.4 * (np.log(price) - 3.5) + 0.5 * np.isin(size, ["XS", "XL"])
    return pd.DataFrame(
        {
            "order_no": [f"R-{number:07d}" for number in rng.permutation(rows) + 31],
            "item": names[item],
            "city": cities[city],
            "size": size,
            "price": price.round(2),
            "first_order": rng.choice(["Y", "N"], rows, p=[0.3, 0.7]),
            "returned": rng.random(rows) < _chance(raw),
        }
    )


def _syllables(rng: np.random.Generator, count: int) -> list[str]:
    pairs = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    return [a.capitalize() + b for a, b in zip(rng.permutation(pairs)[:count], rng.permutation(pairs)[:count], strict=True)]


def tickets(rows: int = 8_000) -> pd.DataFrame:
    """Which of 40 teams a request goes to; the biggest gets seven times as many as the smallest."""
    rng = np.random.default_rng(16)
    teams = [f"{word} {place}" for place in ("Zürich", "Köln", "Genève", "Málaga") for word in _TEAMS]
    weight = np.exp(-np.arange(40) / 20)
    team = rng.choice(40, rows, p=weight / weight.sum())
    products, centres = rng.integers(0, 25, (40, 3)), rng.normal(0, 1.2, (40, 4))
    product = np.where(rng.random(rows) < 0.75, products[team, rng.integers(0, 3, rows)], rng.integers(0, 25, rows))
    numbers = centres[team] + rng.normal(0, 1, (rows, 4))
    table = pd.DataFrame(
        {
            "product": [f"P{number:02d}" for number in product],
            "country": np.where(
                rng.random(rows) < 0.8, np.array(["CH", "DE", "FR", "ES"])[team // 10], rng.choice(["AT", "IT", "UK"], rows)
            ),
            "length": np.exp(5 + 0.5 * numbers[:, 0]).round(),
            "urgency": numbers[:, 1].round(2),
            "reply_no": np.exp(0.5 * numbers[:, 2]).astype(int),
            "customer_score": numbers[:, 3].round(2),
            "channel": rng.choice(["mail", "phone", "chat", "web"], rows),
            "queue": np.array(teams, object)[team],
        }
    )
    return _blank(rng, table, {"customer_score": 0.2, "country": 0.03})


_TEAMS = ("billing", "returns", "repairs", "sales", "access", "network", "legal", "press", "spares", "training")


def survey(rows: int = 3_000) -> pd.DataFrame:
    rng = np.random.default_rng(17)
    numbers = rng.normal(0, 1, (rows, 4))
    region = rng.choice(["Nord", "Süd", "Öst/West", 'Mitte "Zentrum"'], rows)
    stars = rng.integers(1, 6, rows)
    raw = -1.5 + 0.5 * stars + 0.6 * numbers[:, 0] - 0.8 * np.abs(numbers[:, 1]) + 0.7 * (region == "Süd") * numbers[:, 2]
    return pd.DataFrame(
        {
            "Größe [m²]": (1.7 + 0.1 * numbers[:, 0]).round(2),
            "2019": (50 + 10 * numbers[:, 1]).round(1),
            "2020": (52 + 10 * numbers[:, 2]).round(1),
            'comment "length"': np.exp(4 + numbers[:, 3]).round(),
            "a/b <test>": rng.choice(["A", "B"], rows),
            "${price}, €": np.exp(rng.normal(3, 0.5, rows)).round(2),
            "Sterne ★": stars,
            "región": region,
            SURVEY_LABEL: np.where(rng.random(rows) < _chance(raw), "ja", "nein"),
        }
    )


def genes(rows: int = 600, columns: int = 800) -> pd.DataFrame:
    """Correlated expression levels, of which two dozen matter."""
    rng = np.random.default_rng(18)
    factors, loads = rng.normal(0, 1, (rows, 20)), rng.normal(0, 0.7, (20, columns))
    levels = factors @ loads * 0.4 + rng.normal(0, 1, (rows, columns))
    weight = np.zeros(columns)
    weight[rng.choice(columns, 24, replace=False)] = rng.normal(0, 0.6, 24)
    table = pd.DataFrame(levels.round(3), columns=[f"g{number:04d}" for number in range(columns)])
    table["responds"] = np.where(rng.random(rows) < _chance(levels @ weight), "R", "NR")
    return table
