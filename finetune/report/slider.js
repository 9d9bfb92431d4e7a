// From a share of the users to what contacting them finds. The page says the same of five shares without it.
const data = JSON.parse(document.getElementById("contact-figures").textContent);
const input = document.getElementById("contact-share");
// Halves as Python rounds them, so that a figure is the same in the sentence, the table and here.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0, roundingMode: "halfEven" });
const one = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1, roundingMode: "halfEven" });
const show = (name, text) => { document.getElementById("contact-" + name).textContent = text; };
const range = (low, high) => (low === null || high === null ? "" : whole.format(low) + " to " + whole.format(high));

function update() {
  const at = Number(input.value);
  const contacted = data.contacted[at], found = data.found[at];
  const chance = (data.total * contacted) / data.users;
  show("percent", at + "\u00a0%");
  show("contacted", whole.format(contacted));
  show("found", whole.format(found));
  show("range", range(data.low[at], data.high[at]));
  show("missed", whole.format(Math.max(0, data.total - found)));
  show("precision", contacted && data.counts ? whole.format(100 * (found / contacted)) + "\u00a0%" : "\u2013");
  show("lift", chance ? one.format(found / chance) : "\u2013");
  if (data.rivalFound) show("rival", whole.format(data.rivalFound[at]));
  if (data.costs) {
    show("profit", whole.format(found * data.costs.kept_customer - contacted * data.costs.contact).replace("-", "\u2212"));
  }
}

input.value = data.start;
input.addEventListener("input", update);
document.getElementById("contact-slider").hidden = false;
update();
