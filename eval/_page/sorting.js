// SPDX-License-Identifier: Apache-2.0
// Sorting of tables by their heads, and of pictures of pairs by their values.

const byName = new Intl.Collator(undefined, { numeric: true }).compare;

/** Makes a button of each head of a table. */
function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const sort = () => {
      const first = head.dataset.worst || "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sortNodes(table.tBodies[0], (row) => keyOfCell(row.cells[column]), order === "ascending");
    };
    const button = element("button", { type: "button", on: { click: sort } }, ...head.childNodes);
    head.append(button);
  });
}

function keyOfCell(cell) {
  const number = cell.querySelector("data");
  return number === null ? cell.textContent : keyOfNumber(number.value);
}

/** Missing values have no key. */
function keyOfNumber(text) {
  if (text === null || text === "") return null;
  return { inf: Infinity, "-inf": -Infinity }[text] ?? Number(text);
}

/** Puts the children in order by their keys; those without one go last, in either direction. */
function sortNodes(parent, keyOf, isAscending) {
  const rows = [...parent.children].map((node) => ({ node, key: keyOf(node) }));
  const sign = isAscending ? 1 : -1;
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    if (typeof a.key === "string") return sign * byName(a.key, b.key);
    return sign * ((a.key > b.key) - (a.key < b.key));
  });
  parent.append(...rows.map(({ node }) => node));
}

/** A menu above pictures of pairs: by each metric, the worst or the best first, or by name. */
function showSorting(cards) {
  if (cards.children.length < 2) return;
  const choices = [];
  for (const [key, title, higherIsBetter] of JSON.parse(cards.dataset.metrics)) {
    const names = { true: ["worst", "best"], false: ["best", "worst"] }[higherIsBetter] ?? ["lowest", "highest"];
    const orders = [true, false].map((isAscending, index) => ({ key, isAscending, name: `${title}, ${names[index]} first` }));
    if (higherIsBetter === false) orders.reverse();
    choices.push(...orders);
  }
  choices.push({ key: null, isAscending: true, name: "Name" });
  const choose = (index) => {
    const { key, isAscending } = choices[index];
    const keyOf = ({ dataset }) => (key === null ? dataset.name : keyOfNumber(JSON.parse(dataset.values)[key]));
    sortNodes(cards, keyOf, isAscending);
  };
  const sorting = menu(choices.map(({ name }) => name), choose);
  cards.before(element("div", { class: "toolbar" }, labelled("Order of the pictures", sorting)));
}
