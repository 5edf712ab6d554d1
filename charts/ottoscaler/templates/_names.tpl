{{/* Names and labels: what things are called, and how they are found. */}}

{{- define "ottoscaler.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Takes a dict: root, component. The longest component has 17 letters, so that a StatefulSet's pods stay within 63. */}}
{{- define "ottoscaler.name" -}}
{{- printf "%s-%s" (include "ottoscaler.fullname" .root) .component -}}
{{- end -}}

{{- define "ottoscaler.selector" -}}
app.kubernetes.io/name: {{ default .root.Chart.Name .root.Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "ottoscaler.labels" -}}
{{- $own := include "ottoscaler.selector" . | fromYaml -}}
{{- $_ := set $own "app.kubernetes.io/version" .root.Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "ottoscaler" -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .root.Release.Service -}}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") -}}
{{- merge $own (.extra | default dict) .root.Values.commonLabels | toYaml -}}
{{- end -}}

{{/* The metadata of an object. Takes a dict: root, component, and optionally name, labels, annotations. */}}
{{- define "ottoscaler.metadata" -}}
name: {{ .name | default (include "ottoscaler.name" .) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "ottoscaler.labels" (dict "root" .root "component" .component "extra" .labels) | nindent 2 }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "ottoscaler.serviceAccountName" -}}
{{- $account := .values.serviceAccount -}}
{{- if $account.name -}}{{ $account.name }}{{- else if $account.create -}}{{ include "ottoscaler.name" . }}{{- else -}}default{{- end -}}
{{- end -}}

{{/* An image. Takes a dict: root, image (its own values), name (below image.registry). */}}
{{- define "ottoscaler.image" -}}
{{- $own := .image -}}
{{- $common := .root.Values.image -}}
{{- $repository := $own.repository | default (printf "%s/%s" (trimSuffix "/" $common.registry) .name) -}}
{{- if $own.digest -}}{{ $repository }}@{{ $own.digest }}
{{- else -}}{{ $repository }}:{{ $own.tag | default $common.tag | default .root.Chart.AppVersion }}{{- end -}}
{{- end -}}

{{/* Where a service of ours is dialled. Takes a dict: root, component. */}}
{{- define "ottoscaler.address" -}}
{{- printf "%s:9090" (include "ottoscaler.name" .) -}}
{{- end -}}
