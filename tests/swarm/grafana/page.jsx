// The dashboard, drawn by Grafana's own libraries of what Prometheus answered. Its server, which is not here, adds what
// is written below: the grid and its rows, the usual settings of a panel, and frames made of Prometheus' answers.

import { FieldType, Registry, applyFieldOverrides, createTheme, dateTime, toDataFrame } from "@grafana/data";
import { getDisplayValueAlignmentFactors as getAlignmentFactors, getFieldDisplayValues } from "@grafana/data";
import { BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries, VizRepeater } from "@grafana/ui";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";

const GAP = 8; // between panels, and
const UNIT = 30; // the height of a row of the grid: both in pixels, as in Grafana
const COLUMNS = 24;

const theme = createTheme({ colors: { mode: "dark" } });
const timeZone = "browser";
const replaceVariables = (text) => text; // the dashboard has none
const USUAL = {
  stat: { color: { mode: "thresholds" } },
  timeseries: { color: { mode: "palette-classic" } },
};
const USUAL_LOOK = { colorMode: "value", graphMode: "area", justifyMode: "auto", textMode: "auto" };
const USUAL_LINE = { drawStyle: "line", lineWidth: 1, showPoints: "auto", spanNulls: false, axisPlacement: "auto" };

/** Grafana's table of settings is in its server's front end: here each setting is taken as it stands. */
function registry(defaults, overrides) {
  const names = Object.keys(defaults).filter((name) => name !== "custom");
  const custom = Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`);
  const changed = overrides.flatMap(({ properties }) => properties.map(({ id }) => id));
  const asItStands = { process: (value) => value, shouldApply: () => true };
  return new Registry(() =>
    [...new Set([...names, ...custom, ...changed])].map((id) => {
      const path = id.replace(/^custom\./, "");
      return { id, path, isCustom: path !== id, ...asItStands };
    }),
  );
}

/** One frame for each series, named as the legend has it. */
function frames({ targets, answers, stepSeconds }) {
  return targets.flatMap(({ refId, legendFormat }) =>
    answers[refId].map(({ metric, values }) => {
      const displayNameFromDS = legendFormat.replace(/{{\s*(\w+)\s*}}/g, (_, label) => metric[label] ?? "");
      const times = values.map(([seconds]) => seconds * 1000);
      const numbers = values.map(([, number]) => Number(number));
      return toDataFrame({
        refId,
        fields: [
          // A line is broken where a value is missing: the interval tells.
          { name: "Time", type: FieldType.time, values: times, config: { interval: stepSeconds * 1000 } },
          { name: "Value", type: FieldType.number, values: numbers, labels: metric, config: { displayNameFromDS } },
        ],
      });
    }),
  );
}

function data(panel) {
  const { type, fieldConfig } = panel;
  const { overrides } = fieldConfig;
  const defaults = { ...USUAL[type], ...fieldConfig.defaults };
  if (type === "timeseries") defaults.custom = { ...USUAL_LINE, ...defaults.custom };
  return applyFieldOverrides({
    data: frames(panel),
    fieldConfig: { defaults, overrides },
    fieldConfigRegistry: registry(defaults, overrides),
    replaceVariables,
    theme,
    timeZone,
  });
}

function Stat({ panel, width, height }) {
  const { fieldConfig, options } = panel;
  const { reduceOptions, ...look } = { ...USUAL_LOOK, ...options };
  const sparkline = look.graphMode !== "none";
  const shown = { data: data(panel), fieldConfig, reduceOptions, replaceVariables, sparkline, theme, timeZone };
  const getValues = () => getFieldDisplayValues(shown);
  const renderValue = ({ value, ...size }) => (
    <BigValue {...size} {...look} theme={theme} value={value.display} sparkline={value.sparkline} />
  );
  const repeated = { getAlignmentFactors, getValues, renderValue, orientation: "auto", source: panel };
  return <VizRepeater {...repeated} width={width} height={height} />;
}

function Lines({ panel, width, height }) {
  const shown = data(panel);
  if (shown.length === 0) return <p>No data</p>;
  const { options, timeRange } = panel;
  return <TimeSeries {...{ width, height, options, timeRange, timeZone }} frames={shown} legend={options.legend} />;
}

const DRAWINGS = { stat: Stat, timeseries: Lines };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const column = (innerWidth - GAP) / COLUMNS;
  const place = { position: "absolute", left: GAP + x * column, top: GAP + y * (UNIT + GAP) };
  if (panel.type === "row") return <h6 style={{ ...place, lineHeight: `${UNIT}px` }}>{panel.title}</h6>;
  const Drawing = DRAWINGS[panel.type];
  const { title, description } = panel;
  const size = { width: w * column - GAP, height: h * (UNIT + GAP) - GAP };
  return (
    <section style={place}>
      <PanelChrome {...{ title, description, ...size }}>
        {(width, height) => <Drawing {...{ panel, width, height }} />}
      </PanelChrome>
    </section>
  );
}

const root = createRoot(document.body.appendChild(document.createElement("main")));
const show = (panels) =>
  flushSync(() =>
    root.render(
      <ThemeContext.Provider value={theme}>
        <GlobalStyles />
        {panels.map((panel) => (
          <Panel key={panel.id} panel={panel} />
        ))}
      </ThemeContext.Provider>,
    ),
  );

/**
 * Draw the dashboard.
 *
 * @param dashboard what Grafana would be given
 * @param answers by a panel's id and a query's refId: the series that Prometheus gave
 * @param began, ended the time that is shown, in seconds since the epoch
 */
window.draw = async ({ dashboard, answers, began, ended, stepSeconds }) => {
  const [from, to] = [began, ended].map((seconds) => dateTime(seconds * 1000));
  const timeRange = { from, to, raw: { from, to } };
  show([]); // The styles: what is drawn on a canvas does not change when a font comes late.
  await Promise.all([400, 500].map((weight) => document.fonts.load(`${weight} 12px Inter`)));
  show(dashboard.panels.map((panel) => ({ ...panel, answers: answers[panel.id], timeRange, stepSeconds })));
  const rows = Math.max(...dashboard.panels.map(({ gridPos: { y, h } }) => y + h));
  document.body.style.height = `${GAP + rows * (UNIT + GAP)}px`;
};
