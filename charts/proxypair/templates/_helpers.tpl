{{- define "proxypair.name" -}}
{{ default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "proxypair.fullname" -}}
{{- $name := include "proxypair.name" . -}}
{{- if .Values.fullnameOverride -}}
{{ .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains $name .Release.Name -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}
{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{/* For cluster-scoped objects: unique even if releases in different namespaces have the same name. */}}
{{- define "proxypair.clusterName" -}}
{{ .Release.Namespace }}:{{ include "proxypair.fullname" . }}
{{- end }}

{{- define "proxypair.selector" -}}
app.kubernetes.io/name: {{ include "proxypair.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "proxypair.labels" -}}
{{ include "proxypair.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "proxypair.nodeAgentSelector" -}}
app.kubernetes.io/name: {{ include "proxypair.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node-agent
{{- end }}

{{- define "proxypair.nodeAgentLabels" -}}
{{ include "proxypair.nodeAgentSelector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "proxypair.serviceAccount" -}}
{{ default (include "proxypair.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{- define "proxypair.image" -}}
{{- with .Values.image -}}
{{- if not .repository -}}
{{- fail "image.repository is not set: name the registry and the image that `make image` built and you pushed, such as --set image.repository=registry.example.com/netcool/proxypair" -}}
{{- end -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end }}
