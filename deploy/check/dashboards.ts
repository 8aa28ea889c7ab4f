// What the dashboards must be, in Grafana's own types. check.sh puts them behind this as values of type Board; the compiler then
// names every key that Grafana does not know and every value it would not take.
import type { AnnotationQuery, Dashboard, FieldConfigSource, Panel, RowPanel, VariableModel } from '@grafana/schema';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as timeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeseries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

// JSON has text and numbers where the types have enumerations, and null where a threshold has no lower end.
type Plain<T> = T extends string ? `${T}`
    : T extends number ? number | null
    : T extends (infer Item)[] ? Plain<Item>[]
    : T extends object ? { [Key in keyof T]: Plain<T[Key]> }
    : T;

type Target = {
    refId: string;
    datasource: { type: 'prometheus'; uid: '${datasource}' };
    editorMode: 'code';
    expr: string;
    range: boolean;
    instant: boolean;
    legendFormat?: string;
    format?: 'table' | 'heatmap';
};

type Base = Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets' | 'datasource' | 'id' | 'gridPos' | 'title'>;

type Of<Type extends string, Options, Custom> = Plain<
    Base & {
        id: number;
        title: string;
        type: Type;
        options: Options;
        fieldConfig: Omit<FieldConfigSource, 'defaults'> & {
            defaults: Omit<FieldConfigSource['defaults'], 'custom' | 'mappings' | 'color'> & {
                custom?: Partial<Custom>;
                mappings?: unknown[];
                color?: { mode: 'thresholds' | 'palette-classic' };
            };
        };
        gridPos: { h: number; w: number; x: number; y: number };
        datasource: { type: 'prometheus'; uid: '${datasource}' };
    }
> & { targets: Target[] };

type Known =
    | Of<'stat', stat.Options, Record<string, never>>
    | Of<'timeseries', timeseries.Options, timeseries.FieldConfig>
    | Of<'state-timeline', timeline.Options, timeline.FieldConfig>
    | Of<'table', table.Options, table.FieldConfig>
    | Of<'heatmap', heatmap.Options, heatmap.FieldConfig>
    | Plain<RowPanel>;

// Queries of Prometheus carry more than the types of all data sources do.
type Annotation = Plain<Omit<AnnotationQuery, 'target'>> & { expr: string; titleFormat: string; step: string };
type Variable = Plain<Omit<VariableModel, 'query'>> & { query: unknown };

export type Board = Plain<Omit<Dashboard, 'panels' | 'annotations' | 'templating'>> & {
    uid: string;
    schemaVersion: 42;
    panels: Known[];
    annotations: { list: Annotation[] };
    templating: { list: Variable[] };
};
